"""A validation fold that resembles a test set in the sizes of raw images and the brightness of channels.

Test sets often differ from training sets. In the 2018 competition, 22 % of the training fields and 51 % of the test
fields were 3072 px wide, and the test fields were darker. Metrics on fields that resemble the test fields are better
estimates of the test metrics.
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
"""Features by which fields are compared: the height of the raw image, and the mean intensity of a channel."""

FEW_VALUES: Final = 8
"""Maximum number of distinct values of a feature that are compared one by one. Other features are compared by bins."""


@dataclass(frozen=True)
class Resemblance:
    """How far two sets of fields differ in a feature.

    Attributes:
        look: The feature: :data:`HEIGHT`, or :data:`MEAN` followed by a channel.
        before: Total variation distance between the target and all fields: 0 if equal, 1 if disjoint.
        after: Total variation distance between the target and the picked fields.
    """

    look: str
    before: float
    after: float


def looks_of_dataset(
    dataset: Dataset, advance: Callable[[int, int], None] = lambda _done, _total: None
) -> pl.DataFrame:
    """Return the features of all fields of a dataset. Every image is read once.

    Args:
        dataset: The dataset.
        advance: A function that is called with the number of finished fields and of all fields.

    Returns:
        A table with the column ``id`` and one column per feature.
    """
    means = []
    for start in range(0, len(dataset), FIELDS_AT_A_TIME):
        rows = np.arange(start, min(start + FIELDS_AT_A_TIME, len(dataset)))
        means.append(dataset.read(rows).mean(axis=(2, 3)))
        advance(len(rows) + start, len(dataset))
    columns = {f"{MEAN}{name}": of for name, of in zip(dataset.channels, np.concatenate(means).T, strict=True)}
    return dataset.fields.select("id", pl.col(HEIGHT).cast(pl.Float64)).with_columns(**columns)


def looks_in_list(path: Path) -> pl.DataFrame:
    """Read the features of fields from a CSV file.

    The column ``file_size``, as in published lists, can replace ``original_px``. It is the size in bytes of an
    uncompressed gray 8-bit TIFF file.

    Args:
        path: A CSV file with a column ``Id``.

    Returns:
        A table with the column ``id`` and one column per feature.

    Raises:
        TableError: If the file has no features, or a value is not a number.
    """
    table = read_csv(existing(path))
    channels = [name.removeprefix(MEAN) for name in table.columns if name.startswith(MEAN)]
    looks = [f"{MEAN}{channel}" for channel in channel_order(channels)]
    looks = [HEIGHT, *looks] if HEIGHT in table.columns else looks
    present = [*looks, *(name for name in ("file_size",) if name in table.columns)]
    if "Id" not in table.columns or not present:
        raise TableError(
            f"{path} contains no features of its fields: it has the columns {', '.join(table.columns)}.",
            hint=f"Give the column Id and some of {HEIGHT}, file_size, or {MEAN} with a channel; or give a dataset.",
        )
    if table.is_empty():
        raise TableError(f"{path} has no rows.", hint="Give one row per field.")
    refuse_repeated(table["Id"].to_list(), where=str(path))
    numbers = table.select(pl.col("Id").alias("id"), pl.col(present).cast(pl.Float64, strict=False))
    for name in present:
        values = numbers[name].fill_null(-1.0)
        bad = ~values.is_finite() | (values < 0)
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise TableError(
                f"{path}, id {table['Id'][row]}: {name} is {table[name][row]!r}, which is not a number from 0."
            )
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
    """Make one validation fold that resembles another set of fields, such as the test set.

    Args:
        fields: A dataset, a label list, or the path of either. The file of a label list must contain features.
        target: A dataset, or a CSV file of features.
        k: The validation fold gets 1/k of the fields.
        group_by: What folds keep together; see :func:`~cytoloc.curation.folds.make_folds`.
        pairs: Near-duplicates; see :func:`~cytoloc.curation.folds.make_folds`.
        seed: Random seed.
        progress: A function that is called with the number of fields whose images were read, and of all fields.

    Returns:
        The folds, 0 for validation and 1 for training; and for each feature the difference of all fields and of fold 0
        from the target.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If the two sets have no feature in common, a field lacks one, or there are fewer than ``k`` groups.
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
    """Pick a validation fold that resembles a target, from tables.

    The validation fold has 1/k of the labeled fields, in whole groups. Its locations are as frequent as in all fields,
    and its features are distributed as in the target.

    Args:
        fields: A table of fields.
        looks: The features of these fields.
        target: The features of the target.
        k: The validation fold gets 1/k of the fields.
        group_by: What folds keep together.
        pairs: Near-duplicates, as pairs of ids.
        seed: Random seed.

    Returns:
        The folds, 0 for validation and 1 for training; and for each feature the difference of all fields and of fold 0
        from the target.

    Raises:
        TableError: If the tables have no feature in common, a field lacks one, or there are fewer groups than ``k``.
    """
    fields = fields.filter(pl.col("labels").is_not_null())
    common = [name for name in looks.columns if name != "id" and name in target.columns]
    if not common:
        raise TableError(
            f"The fields have the features {', '.join(looks.columns[1:])}, but the target has"
            f" {', '.join(target.columns[1:])}.",
            hint="Give datasets for both, or lists with the same columns.",
        )
    seen = fields.select("id").join(looks, on="id", how="left", maintain_order="left")
    if seen[common[0]].null_count():
        raise TableError(
            f"{seen[common[0]].null_count()} of {fields.height} fields have no {common[0]}.",
            hint="Give the feature of each field.",
        )
    _, group = np.unique(groups_of_fields(fields, group_by=group_by, pairs=pairs), return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    if not 2 <= k <= count:
        raise TableError(
            f"The labeled fields form {count} groups, too few to select 1/{k} of them.",
            hint="Choose `k` from 2 to the number of groups, or label fields of more groups.",
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
    """Divide the values of a feature into bins.

    If the target has few distinct values, each is a bin. Otherwise bins are separated by the quintiles of the target.
    The last bin contains all values that do not occur in the target.

    Args:
        values: The values of the fields, shape ``(n,)``.
        target: The values of the target fields.

    Returns:
        The bin of each value, bool of shape ``(n, bins)``, and the share of each bin in the target, shape ``(bins,)``.

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
