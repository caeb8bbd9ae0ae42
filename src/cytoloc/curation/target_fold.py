"""A validation set that looks like a test set: with originals as large and channels as bright.

Test sets often differ from training sets. In the 2018 competition 22 % of the training fields and 51 % of the test
fields were 3072 px wide, and the test fields were darker. Metrics on fields that look like the test fields predict the
test metrics better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc._typing import BoolArray, FloatArray
from cytoloc.channels import channel_order
from cytoloc.choices import GroupBy, check_type
from cytoloc.curation.balancing import balanced
from cytoloc.curation.duplicates import FIELDS_AT_A_TIME
from cytoloc.curation.folds import class_counts, present_locations, table_of
from cytoloc.curation.groups import groups_of_fields
from cytoloc.curation.pairs import PairSource, tied_ids
from cytoloc.dataset.labeled import LabelSource, open_labels
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import TableError
from cytoloc.files import existing
from cytoloc.labels.lists import read_csv, refuse_repeated

HEIGHT: Final = "original_px"
MEAN: Final = "mean_"
"""Looks by which fields are compared: height of the original, and ``mean_`` with a channel, its mean gray level."""

FEW_VALUES: Final = 8
"""A look with no more values than this is compared value by value; others by fifths of what they are in the target."""


@dataclass(frozen=True)
class Resemblance:
    """How far two sets of fields differ in a look.

    Attributes:
        look: :data:`HEIGHT`, or :data:`MEAN` with a channel.
        before: Total variation between the target and all fields: 0 if they agree, 1 if nothing is alike.
        after: The same between the target and the picked fields.
    """

    look: str
    before: float
    after: float


def looks_of_dataset(
    dataset: Dataset, advance: Callable[[int, int], None] = lambda _done, _total: None
) -> pl.DataFrame:
    """Return ``id`` and all looks of the fields of a dataset; every image is read once."""
    means = []
    for start in range(0, len(dataset), FIELDS_AT_A_TIME):
        rows = np.arange(start, min(start + FIELDS_AT_A_TIME, len(dataset)))
        means.append(dataset.read(rows).mean(axis=(2, 3)))
        advance(len(rows) + start, len(dataset))
    columns = {f"{MEAN}{name}": of for name, of in zip(dataset.channels, np.concatenate(means).T, strict=True)}
    return dataset.fields.select("id", pl.col(HEIGHT).cast(pl.Float64)).with_columns(**columns)


def looks_in_list(path: Path) -> pl.DataFrame:
    """Return ``id`` and the looks that a CSV has, beside its column ``Id``.

    ``file_size``, the bytes of an uncompressed gray TIFF of 8 bits, as in the published lists, stands for
    ``original_px``.

    Raises:
        TableError: If it has none of them, or a value is not a number.
    """
    table = read_csv(existing(path))
    channels = [name.removeprefix(MEAN) for name in table.columns if name.startswith(MEAN)]
    looks = [f"{MEAN}{channel}" for channel in channel_order(channels)]
    looks = [HEIGHT, *looks] if HEIGHT in table.columns else looks
    present = [*looks, *(name for name in ("file_size",) if name in table.columns)]
    if "Id" not in table.columns or not present:
        raise TableError(
            f"{path} does not say what its fields look like: it has the columns {', '.join(table.columns)}.",
            hint=f"It needs Id and some of {HEIGHT}, file_size, or {MEAN} with a channel; or give a dataset.",
        )
    if table.is_empty():
        raise TableError(f"{path} has no rows.", hint="Give a row for each field.")
    refuse_repeated(table["Id"].to_list(), where=str(path))
    numbers = table.select(pl.col("Id").alias("id"), pl.col(present).cast(pl.Float64, strict=False))
    for name in present:
        values = numbers[name].fill_null(-1.0)
        bad = ~values.is_finite() | (values < 0)
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise TableError(f"{path}, id {table['Id'][row]}: {name} is {table[name][row]!r}, not a number from 0.")
    if "file_size" in present and HEIGHT not in present:
        edges = [math.isqrt(int(size)) for size in numbers["file_size"]]
        numbers = numbers.with_columns(pl.Series(HEIGHT, edges, pl.Float64))
        looks = [HEIGHT, *looks]
    return numbers.select("id", *looks)


def make_validation_fold(
    fields: LabelSource,
    target: Dataset | str | Path,
    *,
    k: int = 5,
    group_by: GroupBy = "well",
    pairs: PairSource = (),
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[pl.DataFrame, list[Resemblance]]:
    """Return two folds, of which fold 0 looks like another set of fields, such as the test set.

    Args:
        fields: A dataset, a label list, or the path of either. The file of a label list has the looks of its fields
            too.
        target: A dataset, or the path of a CSV that lists looks.
        k: Fold 0 has one field in ``k``.
        group_by: What must not be separated.
        pairs: Near-duplicates; see :func:`~cytoloc.curation.folds.make_folds`.
        seed: Random seed.
        progress: Called with the number of fields whose images were read, and of all fields of the dataset.

    Returns:
        The folds, 0 to evaluate on and 1 to train on; and for each look how far fold 0 and all fields differ from the
        target.

    Raises:
        TableError: If the two have no look in common, a field has none, or there are fewer groups than ``k``.
    """
    source = open_labels(fields, argument="fields")
    check_type(target, (Dataset, str, Path), argument="target")
    looks = looks_of_dataset(source, progress) if isinstance(source, Dataset) else looks_in_list(Path(source.path))
    if isinstance(target, str | Path) and Path(target).is_file():
        wanted = looks_in_list(Path(target))
    else:
        wanted = looks_of_dataset(target if isinstance(target, Dataset) else open_dataset(target), progress)
    return pick_like(source.fields, looks, wanted, k=k, group_by=group_by, pairs=tied_ids(pairs), seed=seed)


def pick_like(
    fields: pl.DataFrame,
    looks: pl.DataFrame,
    target: pl.DataFrame,
    *,
    k: int = 5,
    group_by: GroupBy = "well",
    pairs: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> tuple[pl.DataFrame, list[Resemblance]]:
    """Return two folds, 0 to evaluate on and 1 to train on, and how much more fold 0 looks like the target.

    Fold 0 has a k-th of the labeled fields, in whole groups, the classes in the proportions of all fields, and the
    looks in those of the target.

    Raises:
        TableError: If the two tables have no look in common, a field has none, or there are fewer groups than ``k``.
    """
    fields = fields.filter(pl.col("labels").is_not_null())
    common = [name for name in looks.columns if name != "id" and name in target.columns]
    if not common:
        raise TableError(
            f"The fields are described by {', '.join(looks.columns[1:])}, the target by"
            f" {', '.join(target.columns[1:])}.",
            hint="Give a dataset for both, or lists with the same columns.",
        )
    seen = fields.select("id").join(looks, on="id", how="left", maintain_order="left")
    if seen[common[0]].null_count():
        raise TableError(f"{seen[common[0]].null_count()} of {fields.height} fields have no {common[0]}.")
    _, group = np.unique(groups_of_fields(fields, group_by=group_by, pairs=pairs), return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    if not 2 <= k <= count:
        raise TableError(
            f"There are {count} groups of labeled fields; a {k}th of them cannot be picked.",
            hint="Choose `k` of 2 or more, and label fields of at least so many groups.",
        )
    bins = [look_bins(seen[name].to_numpy(), target[name].to_numpy()) for name in common]
    truth = present_locations(fields["labels"].to_list())
    parts = [
        class_counts(truth, group)[1],
        np.bincount(group)[:, None],
        *(class_counts(inside, group)[1] for inside, _ in bins),
    ]
    what = np.concatenate(parts, axis=1).astype(float)
    even = what.sum(axis=0) / k
    wanted = np.concatenate(
        [even[: len(even) - sum(len(shares) for _, shares in bins)]] + [shares * len(group) / k for _, shares in bins]
    )
    start = (np.random.default_rng(seed).permutation(count) % k > 0).astype(np.int64)
    picked = balanced(start, what, targets=np.stack([wanted, what.sum(axis=0) - wanted]))[group]
    resemblance = [
        Resemblance(name, _variation(inside, shares), _variation(inside[picked == 0], shares))
        for name, (inside, shares) in zip(common, bins, strict=True)
    ]
    return table_of(fields, group, np.ones(len(group), bool), picked), resemblance


def look_bins(values: NDArray[Any], target: NDArray[Any]) -> tuple[BoolArray, FloatArray]:
    """Return which values are in which bin, bool ``(n, bins)``, and the share of each bin in the target, ``(bins,)``.

    Few distinct values are a bin each; others are divided at the fifths of the target. The last bin has all values that
    the target lacks.

    Examples:
        >>> look_bins(np.array([1, 3]), np.array([1, 1, 2, 2]))[1].tolist()
        [0.5, 0.5, 0.0]
    """
    distinct = np.unique(target)
    if len(distinct) <= FEW_VALUES:
        inside = values[:, None] == distinct
        shares = (target[:, None] == distinct).mean(axis=0)
    else:
        edges = np.quantile(target, np.arange(1, 5) / 5)
        numbers = np.arange(5)
        inside = np.searchsorted(edges, values)[:, None] == numbers
        shares = (np.searchsorted(edges, target)[:, None] == numbers).mean(axis=0)
    return np.column_stack([inside, ~inside.any(axis=1)]), np.append(shares, 0.0)


def _variation(inside: BoolArray, shares: FloatArray) -> float:
    return float(np.abs(inside.mean(axis=0) - shares).sum() / 2)
