"""Batches of a dataset for training: uint8 images and float targets, in the order of the recipe's sampling."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cytoloc._typing import BoolArray, FloatArray, IntArray
from cytoloc.curation.folds_file import check_table, read_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import SettingsError, TrainingError
from cytoloc.labels.label_set import LabelSet
from cytoloc.parallel import one_ahead
from cytoloc.recipes.recipe import Recipe
from cytoloc.training.distributed import SINGLE, Processes

Truth = BoolArray
"""Labels of fields, bool of shape ``(n, locations)``."""


class LabeledBatch(NamedTuple):
    """A batch of fields with their labels.

    Attributes:
        images: uint8 of shape ``(n, channels, size, size)``.
        targets: Float of shape ``(n, locations)``, 0 or 1.
        antibodies: The number of each field's antibody; -1 if unknown or not used.
    """

    images: Tensor
    targets: Tensor
    antibodies: Tensor


@dataclass(frozen=True)
class Split:
    """The rows of a dataset to train on, and the rows of the validation fold."""

    train: IntArray
    held_out: IntArray


def folds_to_train(folds: Any, fold: Any) -> tuple[pl.DataFrame, list[int]]:
    """Return the table of folds, and the validation folds to train for.

    Args:
        folds: The argument of :func:`~cytoloc.training.run.train`.
        fold: The argument of :func:`~cytoloc.training.run.train`.

    Returns:
        The table, and the numbers of the validation folds.

    Raises:
        SettingsError: If an argument has the wrong type.
        TableError: If the folds are invalid.
    """
    if isinstance(folds, (str, Path)):
        folds = read_folds(Path(folds))
    if not isinstance(folds, pl.DataFrame):
        raise SettingsError(f"`folds` must be a polars DataFrame or the path of a CSV, not {type(folds).__name__}.")
    if not {"id", "fold"} <= set(folds.columns) or not folds["fold"].dtype.is_integer():
        raise SettingsError(
            f"`folds` has the columns {', '.join(folds.columns)}, but needs id, and fold with integers.",
            hint="Make folds with `cytoloc folds`.",
        )
    grouped = folds if "group" in folds.columns else folds.with_row_index("group")
    check_table(grouped.select("id", "group", "fold"), where="folds")
    if fold == "all":
        return folds, sorted(folds["fold"].drop_nulls().unique().to_list())
    numbers = [fold] if isinstance(fold, int) else fold
    integers = isinstance(numbers, Sequence) and numbers and all(type(number) is int for number in numbers)
    if not integers or len(set(numbers)) < len(numbers):
        raise SettingsError(
            f"`fold` is {fold!r}, which is not a fold.", hint="Give an integer, a list of different integers, or 'all'."
        )
    return folds, list(numbers)


def split_dataset(dataset: Dataset, folds: pl.DataFrame, fold: int) -> Split:
    """Return the training rows and the validation rows of a dataset for a fold.

    Fields without a fold are in neither.

    Args:
        dataset: The dataset.
        folds: A table with the columns ``id`` and ``fold``.
        fold: The validation fold.

    Returns:
        The rows.

    Raises:
        TrainingError: If the folds contain fields that the dataset lacks or that are unlabeled, lack labeled fields,
            have no such fold, or leave fewer than two fields to train on.
    """
    labeled = {name: row for row, (name, known) in enumerate(zip(dataset.ids, dataset.labeled, strict=True)) if known}
    listed = folds["id"].to_list()
    strange = [name for name in listed if name not in labeled]
    if strange:
        raise TrainingError(
            f"The folds contain {len(strange)} fields that are not labeled fields of {dataset.path}, such as"
            f" {strange[0]}.",
            hint="Make the folds from this dataset with `cytoloc folds`.",
        )
    left_out = labeled.keys() - set(listed)
    if left_out:
        raise TrainingError(
            f"The folds lack {len(left_out)} labeled fields of {dataset.path}, such as {min(left_out)}.",
            hint="Make the folds from this dataset with `cytoloc folds`.",
        )
    folds = folds.drop_nulls("fold")
    rows = np.array([labeled[name] for name in folds["id"]], np.int64)
    held_out = folds["fold"].to_numpy() == fold
    if not held_out.any():
        known = ", ".join(str(number) for number in sorted(folds["fold"].unique().to_list()))
        raise TrainingError(
            f"The folds have no fold {fold}; they are numbered {known}.", hint="Choose one of these, or all."
        )
    if (~held_out).sum() < 2:
        raise TrainingError(
            f"Fold {fold} leaves {int((~held_out).sum())} fields to train on, but two are needed.",
            hint="Make more folds.",
        )
    return Split(np.sort(rows[~held_out]), np.sort(rows[held_out]))


class FieldBatches(TorchDataset[LabeledBatch]):
    """Rows of a dataset as a PyTorch dataset whose items are whole batches; by default with all channels."""

    def __init__(
        self,
        dataset: Dataset,
        rows: IntArray,
        *,
        channels: Sequence[str] = (),
        antibodies: Mapping[str, int] | None = None,
    ) -> None:
        self.dataset = dataset
        planes = [dataset.channels.index(name) for name in channels or dataset.channels]
        self._planes = None if planes == list(range(len(dataset.channels))) else planes
        self.rows = rows
        self.truth = dataset.truth[rows]
        self.targets = torch.from_numpy(self.truth.astype(np.float32))
        names = dataset.fields["antibody"].gather(rows).to_list()
        self.antibodies = torch.tensor([(antibodies or {}).get(name, -1) for name in names])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> LabeledBatch:
        """Return one batch. The data loader calls this instead of requesting items one by one."""
        images = self.dataset.read(self.rows[indices])
        images = images if self._planes is None else images[:, self._planes]
        return LabeledBatch(torch.from_numpy(images), self.targets[indices], self.antibodies[indices])


class ReadAhead(DataLoader[Any]):
    """A data loader without worker processes, whose thread reads the next batch during a training step.

    Attributes:
        waited: Time that the last or current pass waited for batches, in seconds.
    """

    waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own iterator keeps what workers need
        self.waited = 0.0
        batches = one_ahead(super().__iter__())
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch


def batch_loader(
    fields: FieldBatches, rows: IntArray, *, batch_size: int, processes: Processes = SINGLE, pin: bool = False
) -> ReadAhead:
    """Return a loader of batches; each of several processes reads its part of every batch.

    Args:
        fields: The fields.
        rows: Positions in ``fields``, in order.
        batch_size: Number of fields per batch, over all processes.
        processes: The processes that share each batch. An uneven batch is filled up by repeating its last field.
        pin: Whether to use pinned memory, which allows asynchronous copies to a CUDA device.

    Returns:
        The loader.
    """
    # A list instead of a generator, so that the order is the same whenever Lightning starts to iterate.
    batches = [
        processes.shard_rows(rows[start : start + batch_size].tolist()) for start in range(0, len(rows), batch_size)
    ]
    return ReadAhead(fields, batch_sampler=batches, collate_fn=lambda batch: batch, pin_memory=pin)


def antibody_numbers(dataset: Dataset, rows: IntArray) -> dict[str, int]:
    """Return a number for each antibody of some fields.

    Args:
        dataset: The dataset.
        rows: The rows of the fields.

    Returns:
        Numbers from 0, by antibody.

    Raises:
        TrainingError: If fewer than two antibodies are known.
    """
    names = sorted(dataset.fields["antibody"].gather(rows).drop_nulls().unique().to_list())
    if len(names) < 2:
        raise TrainingError(
            f"{dataset.path} states {len(names)} antibodies, but recognizing antibodies needs at least two.",
            hint="Set loss.arcface=0, or import fields with their antibodies.",
        )
    return {name: number for number, name in enumerate(names)}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The selection and order of the fields of an epoch.

    Attributes:
        order: ``shuffled``, ``balanced`` or ``stratified``.
        mu: Class balance; see :func:`field_weights`.
        oversample: Factors of locations; see :func:`oversampled_rows`.
        batch_size: Number of fields per batch.
    """

    order: str = "shuffled"
    mu: float = 0.0
    oversample: Mapping[int, int] = field(default_factory=dict)
    batch_size: int = 8

    @classmethod
    def from_recipe(cls, recipe: Recipe, label_set: LabelSet) -> Self:
        """Return the sampling of a recipe for a label set."""
        oversample = {
            label_set.index(word): times for word, times in recipe.sampling.oversample.get(label_set.name, {}).items()
        }
        return cls(
            order=recipe.sampling.order,
            mu=recipe.sampling.mu,
            oversample=oversample,
            batch_size=recipe.schedule.batch_size,
        )

    def rows(self, truth: Truth, rng: np.random.Generator) -> IntArray:
        """Return the positions of the fields of an epoch, in order.

        An incomplete last batch is dropped unless it is the only one, because batch normalization needs several fields.

        Args:
            truth: The labels, bool of shape ``(n, locations)``.
            rng: Random generator.

        Returns:
            Positions from 0, int64.
        """
        rows = oversampled_rows(truth, self.oversample) if self.oversample else np.arange(len(truth))
        if self.order == "balanced":
            weights = field_weights(truth, mu=self.mu)[rows]
            rows = rng.choice(rows, size=len(rows), p=weights / weights.sum())
        elif self.order == "stratified":
            rows = rows[stratified_order(rarest_label(truth)[rows], batch_size=self.batch_size, rng=rng)]
        else:
            rows = rng.permutation(rows)
        return rows[: max(1, len(rows) // self.batch_size) * self.batch_size]


def field_weights(truth: Truth, *, mu: float) -> FloatArray:
    """Return the relative probability of drawing each field, by the rule of the starter code of 2018.

    The given frequency of a class is its share of all labels. The uniform frequency is equal for all classes that
    occur. The target frequency is a mixture of both, with the share ``mu`` of the uniform frequency. The weight of a
    field is the highest ratio of target to given frequency over its labels. A field without labels has the lowest
    ratio of all classes.

    Args:
        truth: The labels, bool of shape ``(n, locations)``.
        mu: Class balance, from 0 (as in the data) to 1 (uniform).

    Returns:
        Weights, shape ``(n,)``.

    >>> field_weights(np.array([[1, 0], [1, 0], [1, 0], [1, 1]], bool), mu=1).round(3).tolist()
    [0.625, 0.625, 0.625, 2.5]
    """
    counts = truth.sum(axis=0)
    given = counts / max(counts.sum(), 1)
    occurs = counts > 0
    if not occurs.any():
        return np.ones(len(truth))
    wanted = mu * occurs / occurs.sum() + (1 - mu) * given
    ratio = np.divide(wanted, given, out=np.zeros_like(given), where=occurs)
    weights = np.where(truth, ratio, 0.0).max(axis=1)
    return np.asarray(np.where(truth.any(axis=1), weights, ratio[occurs].min()))


def oversampled_rows(truth: Truth, oversample: Mapping[int, int]) -> IntArray:
    """Return the row of each field, repeated by the largest factor of its locations, at least once.

    >>> oversampled_rows(np.array([[1, 0], [0, 1], [1, 1]], bool), {1: 2}).tolist()
    [0, 1, 1, 2, 2]
    """
    times = np.array([oversample.get(location, 1) for location in range(truth.shape[1])])
    return np.repeat(np.arange(len(truth)), np.maximum(np.where(truth, times, 1).max(axis=1), 1))


def rarest_label(truth: Truth) -> IntArray:
    """Return the rarest label of each field; -1 for a field without labels.

    >>> rarest_label(np.array([[1, 0], [1, 1], [0, 0]], bool)).tolist()
    [0, 1, -1]
    """
    counts = truth.sum(axis=0)
    rarest = np.where(truth, counts, len(truth) + 1).argmin(axis=1)
    return np.where(truth.any(axis=1), rarest, -1)


def stratified_order(strata: IntArray, *, batch_size: int, rng: np.random.Generator) -> IntArray:
    """Return a random order in which the number of fields of a stratum differs by at most one between batches.

    Random fields are dropped if the last batch is incomplete. If there are fewer fields than a batch, all are used.

    Args:
        strata: The stratum of each field, shape ``(n,)``.
        batch_size: Number of fields per batch.
        rng: Random generator.

    Returns:
        Positions from 0, int64.
    """
    batches = max(1, len(strata) // batch_size)
    kept = rng.permutation(len(strata))[: batches * batch_size]
    by_stratum = kept[np.argsort(strata[kept], kind="stable")]
    return np.concatenate([rng.permutation(by_stratum[number::batches]) for number in range(batches)])


@dataclass(frozen=True)
class FoldData:
    """The data of one run: training fields with their sampling, and fields of the validation fold."""

    train: FieldBatches
    held_out: FieldBatches
    sampling: Sampling
