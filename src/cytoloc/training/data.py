"""Batches from a dataset: uint8 pixels and float targets, decoded by tensorstore's own threads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from cytoloc.dataset.store import Dataset
from cytoloc.errors import TrainingError
from cytoloc.training.sampling import Order, shuffled
from cytoloc.training.together import ALONE, Share


class Batch(NamedTuple):
    """Some fields.

    Attributes:
        pixels: uint8 ``(n, channels, s, s)``.
        targets: Float ``(n, locations)``, 0 or 1.
        antibodies: The number of each field's antibody, -1 where it is not known or not asked for.
    """

    pixels: Tensor
    targets: Tensor
    antibodies: Tensor


@dataclass(frozen=True)
class Split:
    """Rows of a dataset to learn from and rows held out."""

    train: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_dataset(dataset: Dataset, folds: pl.DataFrame, fold: int) -> Split:
    """Return the rows of a dataset that fold number ``fold`` trains on and holds out, those without a fold in neither.

    Raises:
        TrainingError: If the folds name fields that the dataset lacks or has without labels, leave labeled ones out,
            have no such fold, or leave nothing to learn from.
    """
    labeled = {name: row for row, (name, known) in enumerate(zip(dataset.ids, dataset.labeled, strict=True)) if known}
    listed = folds["id"].to_list()
    strange = [name for name in listed if name not in labeled]
    if strange:
        raise TrainingError(
            f"The folds name {len(strange)} fields that {dataset.path} lacks or has without labels, e.g. {strange[0]}.",
            hint="Make the folds from this dataset with `cytoloc folds`.",
        )
    left_out = labeled.keys() - set(listed)
    if left_out:
        raise TrainingError(
            f"The folds leave out {len(left_out)} labeled fields of {dataset.path}, e.g. {min(left_out)}.",
            hint="Make the folds from this dataset with `cytoloc folds`.",
        )
    folds = folds.drop_nulls("fold")
    rows = np.array([labeled[name] for name in folds["id"]], np.int64)
    held = folds["fold"].to_numpy() == fold
    if not held.any():
        known = ", ".join(str(number) for number in sorted(folds["fold"].unique().to_list()))
        raise TrainingError(f"There is no fold {fold}; the folds are {known}.", hint="Choose one of them, or all.")
    if (~held).sum() < 2:
        raise TrainingError(f"Fold {fold} leaves {int((~held).sum())} fields to learn from.", hint="Make more folds.")
    return Split(np.sort(rows[~held]), np.sort(rows[held]))


class Fields(TorchDataset[Batch]):
    """Fields of a dataset as a torch dataset whose items are whole batches.

    Args:
        dataset: Where they are.
        rows: Which.
        channels: Names of the channels of the batches, in order; by default all of the dataset.
        antibodies: The number of each antibody.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: NDArray[np.int64],
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

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return one batch; torch calls this instead of asking for items one by one."""
        pixels = self.dataset.read(self.rows[indices])
        pixels = pixels if self._planes is None else pixels[:, self._planes]
        return Batch(torch.from_numpy(pixels), self.targets[indices], self.antibodies[indices])


class ReadAhead(DataLoader[Any]):
    """A loader without worker processes that reads the next batch while the last is being learnt.

    Attributes:
        waited: Seconds for which the last pass, or the present one, kept its reader waiting.
    """

    waited = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's own iterator keeps what workers need
        self.waited = 0.0
        batches = super().__iter__()
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(next, batches, None)
            while True:
                asked = time.perf_counter()
                batch = coming.result()
                self.waited += time.perf_counter() - asked
                if batch is None:
                    return
                coming = reader.submit(next, batches, None)
                yield batch


def antibody_numbers(dataset: Dataset, rows: NDArray[np.int64]) -> dict[str, int]:
    """Return a number for each antibody that stained any of some rows.

    Raises:
        TrainingError: If fewer than two are known.
    """
    names = sorted(dataset.fields["antibody"].gather(rows).drop_nulls().unique().to_list())
    if len(names) < 2:
        raise TrainingError(
            f"{dataset.path} names {len(names)} antibodies; to tell them apart takes at least two.",
            hint="Use --set loss.arcface=0, or import fields with their antibodies.",
        )
    return {name: number for number, name in enumerate(names)}


def loader(
    fields: Fields, *, batch_size: int, shuffle_seed: int | None, order: Order = shuffled, share: Share = ALONE
) -> ReadAhead:
    """Return batches of ``fields``: as they lie, or chosen by ``order`` with ``shuffle_seed``.

    A shuffled last batch that is not full is left out, unless it is the only one: a batch of one field has no spread
    for the batch norms. Of several processes each has its share of every batch.

    Args:
        fields: To be read.
        batch_size: Fields in the batch of all processes.
        shuffle_seed: None leaves fields as they lie.
        order: See there.
        share: Which share is read here; a last field that fills up an uneven batch is read more than once.
    """
    mixed = shuffle_seed is not None
    # A list, not a generator: however often Lightning starts to iterate, the order is the same.
    rows = order(fields.truth, np.random.default_rng(shuffle_seed)) if mixed else np.arange(len(fields))
    if mixed and len(rows) >= batch_size:
        rows = rows[: len(rows) // batch_size * batch_size]
    batches = [share.own_rows(rows[start : start + batch_size].tolist()) for start in range(0, len(rows), batch_size)]
    return ReadAhead(fields, batch_sampler=batches, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
