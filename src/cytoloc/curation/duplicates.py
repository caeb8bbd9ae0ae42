"""Near-duplicate fields within and across datasets: found by perceptual hashes, confirmed on their pixels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc._typing import IntArray
from cytoloc.channels import channel_order
from cytoloc.choices import check_type
from cytoloc.curation.groups import components
from cytoloc.curation.hamming import DEFAULT_LIMITS, LEAST_CHANNELS, OTHER_LIMIT, Hashes, near_pairs
from cytoloc.curation.registration import registered_correlation
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ArgumentTypeError, ChannelError, DatasetWarning, SettingsError
from cytoloc.files import new_file
from cytoloc.images.hashes import TRANSFORMS, phashes_turned, turned
from cytoloc.parallel import in_order

Verdict = Literal["copy", "doubtful", "different"]

COPY: Final = 0.8
"""Lowest registered correlation of a copy; see ``research/duplicates.py`` for the values that copies reach."""

DOUBTFUL: Final = 0.5
"""Lowest registered correlation of a doubtful pair, which a person should check."""

FIELDS_AT_A_TIME: Final = 64
"""Number of fields whose images are read at the same time."""


def pairs_schema(channels: Sequence[str]) -> pl.Schema:
    """Return the schema of a table of pairs.

    The transform turns field ``a`` into field ``b``. Unknown distances are null.

    Args:
        channels: The channels of the fields.

    Returns:
        The names and types of the columns.
    """
    return pl.Schema(
        {
            "a": pl.String(),
            "b": pl.String(),
            **{f"d_{channel}": pl.Int16() for channel in channels},
            "transform": pl.String(),
            "correlation": pl.Float32(),
            "verdict": pl.String(),
            "dataset_a": pl.String(),
            "dataset_b": pl.String(),
        }
    )


class _Pool(NamedTuple):
    """The fields of several datasets as one list, with all channels that occur."""

    datasets: Sequence[Dataset]
    starts: IntArray
    hashes: Hashes

    @classmethod
    def of(cls, datasets: Sequence[Dataset]) -> _Pool:
        """Return the pool of the fields of several datasets."""
        channels = channel_order(list(dict.fromkeys(channel for dataset in datasets for channel in dataset.channels)))
        columns = [f"phash_{channel}" for channel in channels]
        schema = dict.fromkeys(columns, pl.UInt64())
        fields = pl.concat(
            [
                dataset.fields.select(
                    pl.col(name) if name in dataset.fields.columns else pl.lit(None, of).alias(name)
                    for name, of in schema.items()
                )
                for dataset in datasets
            ]
        )
        known = np.stack([fields[column].is_not_null().to_numpy() for column in columns], axis=1)
        bits = np.stack([fields[column].fill_null(0).to_numpy() for column in columns], axis=1)
        starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])[:-1]
        return cls(datasets, starts, Hashes(bits, known, channels))

    def place(self, row: int) -> tuple[Dataset, int]:
        """Return the dataset of a row of the pool, and its row in that dataset."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.datasets[number], int(row - self.starts[number])

    def not_compared(self, limits: Mapping[str, int]) -> str:
        """Return a note about the fields that cannot be compared with any other, and why; empty if there are none."""
        used = [name for name in self.hashes.channels if name in limits]
        known = self.hashes.known[:, [self.hashes.channels.index(name) for name in used]]
        needed = min(LEAST_CHANNELS, len(used))
        rows = np.flatnonzero(known.sum(axis=1) < needed)
        if not len(rows):
            return ""
        examples = []
        for row in rows[:3]:
            dataset, at = self.place(int(row))
            empty = [
                name if name in dataset.channels else f"{name} (not imaged)"
                for name, there in zip(used, known[row], strict=True)
                if not there
            ]
            examples.append(f"{dataset.fields['id'][at]} ({', '.join(empty)})")
        least = f"fewer than {needed} of the channels {', '.join(used)} have" if len(used) > 1 else f"{used[0]} has no"
        return (
            f"{len(rows)} of {len(known)} fields could not be compared, because {least} contents: all pixels of a"
            f" channel are equal. Fields, and their channels without contents: {', '.join(examples)}"
            f"{' …' if len(rows) > 3 else ''}."
        )

    def candidates(
        self, limits: Mapping[str, int], *, turns: bool, advance: Callable[[str, int, int], None]
    ) -> pl.DataFrame:
        """Return all similar pairs once: rows ``a`` < ``b``, number of the transform, and distances."""
        ways = self._turned(advance) if turns else [self.hashes]
        parts = []
        for transform, hashes in enumerate(ways):
            near = near_pairs(hashes, self.hashes, limits=limits)
            # Without a transform, each pair is found twice and each field matches itself; with one, a symmetric field
            # may match itself.
            keep = near.a < near.b if transform == 0 else near.a != near.b
            parts.append(
                pl.DataFrame(
                    {
                        "a": near.a[keep],
                        "b": near.b[keep],
                        "transform": np.full(int(keep.sum()), transform),
                        "distances": near.distances[keep].tolist(),
                    },
                    schema={"a": pl.Int64, "b": pl.Int64, "transform": pl.Int64, "distances": pl.List(pl.Int16)},
                )
            )
            advance("searching", transform + 1, len(ways))
        table = pl.concat(parts).with_columns(
            one=pl.min_horizontal("a", "b"), other=pl.max_horizontal("a", "b"), sum=pl.col("distances").list.sum()
        )
        # A pair can be found with several transforms and in both orders; the best match is kept.
        best = table.sort("sum", "transform", "a").unique(["one", "other"], keep="first", maintain_order=True)
        return best.sort("one", "other").select("a", "b", "transform", "distances")

    def _turned(self, advance: Callable[[str, int, int], None]) -> list[Hashes]:
        """Return the hashes of all fields in each of the eight orientations."""
        total, channels = len(self.hashes.bits), self.hashes.channels
        bits = np.zeros((len(TRANSFORMS), total, len(channels)), np.uint64)

        def hashed(block: tuple[Dataset, int, int]) -> tuple[int, NDArray[np.uint64]]:
            dataset, start, offset = block
            images = dataset.read(np.arange(start, min(start + FIELDS_AT_A_TIME, len(dataset))))
            numbers = np.zeros((len(images), len(channels), len(TRANSFORMS)), np.uint64)
            numbers[:, [channels.index(channel) for channel in dataset.channels]] = np.array(
                [phashes_turned(image) for image in images], np.uint64
            )
            return offset, numbers

        blocks = [
            (dataset, start, int(offset) + start)
            for dataset, offset in zip(self.datasets, self.starts, strict=True)
            for start in range(0, len(dataset), FIELDS_AT_A_TIME)
        ]
        for offset, numbers in in_order(hashed, blocks):
            bits[:, offset : offset + len(numbers)] = np.moveaxis(numbers, 2, 0)
            advance("turning", offset + len(numbers), total)
        # The hash of the original orientation is the stored one, which was computed from the raw image.
        bits[0] = self.hashes.bits
        return [Hashes(each, self.hashes.known, channels) for each in bits]

    def correlations(self, table: pl.DataFrame, advance: Callable[[str, int, int], None]) -> Sequence[float]:
        """Return the registered correlation of each pair, over the channels that both fields have."""

        def correlation(pair: tuple[int, int, int, list[int]]) -> float:
            row_a, row_b, transform, distances = pair
            (dataset_a, at_a), (dataset_b, at_b) = self.place(row_a), self.place(row_b)
            known = [name for name, bits in zip(self.hashes.channels, distances, strict=True) if bits >= 0]
            planes_a = dataset_a[at_a][[dataset_a.channels.index(name) for name in known]]
            planes_b = dataset_b[at_b][[dataset_b.channels.index(name) for name in known]]
            return registered_correlation(turned(planes_a, TRANSFORMS[transform]), planes_b)

        found = []
        for done, value in enumerate(in_order(correlation, table.iter_rows()), start=1):
            found.append(value)
            advance("confirming", done, table.height)
        return found


def find_duplicates(
    datasets: Dataset | str | Path | Sequence[Dataset | str | Path],
    *,
    limits: Mapping[str, int] | None = None,
    turned_too: bool = True,
    confirm: bool = True,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> pl.DataFrame:
    """Find pairs of near-duplicate fields.

    Args:
        datasets: One or several datasets. Fields are compared within and across all of them.
        limits: For each channel, the maximum Hamming distance of the 64-bit hashes. Other channels are not compared.
            Default: 14 for microtubules, 12 for the protein and 10 for the nucleus; if the datasets have only one of
            these in common, 12 for all channels that they have in common.
        turned_too: Also find rotated and mirrored copies. Every image is read once for this.
        confirm: Align the images of each pair, and correlate their pixels. Otherwise correlation and verdict are null.
        progress: A function that is called with the current step, the number of finished units, and their total.

    Returns:
        A table with one row per pair, the most similar first. Columns: the ids ``a`` and ``b``, the Hamming distance
        of each channel (``d_…``), the ``transform`` that turns ``a`` into ``b``, the ``correlation``, the ``verdict``
        (``copy``, ``doubtful`` or ``different``), and the datasets. See :func:`pairs_schema`.

    Raises:
        ArgumentTypeError: If ``datasets`` are neither datasets nor paths.
        SettingsError: If a dataset is given twice, or a limit is not an integer from 0 to 64.
        MissingExtraError: If faiss is not installed.
        ChannelError: If two datasets have too few channels in common.

    Warns:
        DatasetWarning: If fields could not be compared, because too few of their channels have contents.
    """
    check_type(datasets, (Dataset, str, Path, list, tuple), argument="datasets")
    check_type(limits, (Mapping, type(None)), argument="limits")
    bad = {name: bits for name, bits in (limits or {}).items() if type(bits) is not int or not 0 <= bits <= 64}
    if bad:
        raise SettingsError(
            f"`limits` has invalid values: {bad}.", hint="Give a number of bits from 0 to 64 for each channel."
        )
    several = [datasets] if isinstance(datasets, Dataset | str | Path) else list(datasets)
    if not all(isinstance(each, Dataset | str | Path) for each in several):
        raise ArgumentTypeError(
            "`datasets` contains a value that is neither a dataset nor a path.", hint="Give cytoloc.open_dataset(…)."
        )
    opened = [each if isinstance(each, Dataset) else open_dataset(each) for each in several]
    local = [str(each.path).removeprefix("file://").rstrip("/") for each in opened]
    places = [path if "://" in path else str(Path(path).resolve()) for path in local]
    twice = next((each.path for place, each in zip(places, opened, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise SettingsError(
            f"{twice} is given twice, so every field would be found as its own copy.", hint="Give each dataset once."
        )
    limits = _default_limits(opened) if limits is None else limits
    for one, other in combinations_with_replacement(opened, 2):
        either = {channel for channel in (*one.channels, *other.channels) if channel in limits}
        both = channel_order([channel for channel in one.channels if channel in limits and channel in other.channels])
        if not both or len(both) < min(LEAST_CHANNELS, len(either)):
            second, shared = f", and {other.path} has {', '.join(other.channels)}", " that both have"
            if other is one:
                second = shared = ""
            raise ChannelError(
                f"{one.path} has the channels {', '.join(one.channels)}{second}. Channels with limits{shared}:"
                f" {' and '.join(both) or 'none'}. Fields are compared in at least {LEAST_CHANNELS}"
                " channels, or in the only channel that both have.",
                hint="Give `limits` for channels that all datasets have, or compare the datasets separately.",
            )
    pool = _Pool.of(opened)
    if note := pool.not_compared(limits):
        warnings.warn(note, DatasetWarning, stacklevel=2)
    table = pool.candidates(limits, turns=turned_too, advance=progress)
    correlations: list[float | None] = [None] * table.height
    if confirm:
        correlations = list(pool.correlations(table, progress))
    rows = []
    for (row_a, row_b, transform, distances), correlation in zip(table.iter_rows(), correlations, strict=True):
        (dataset_a, at_a), (dataset_b, at_b) = pool.place(row_a), pool.place(row_b)
        bits = [None if distance < 0 else distance for distance in distances]
        names = str(dataset_a.path), str(dataset_b.path)
        ids = dataset_a.fields["id"][at_a], dataset_b.fields["id"][at_b]
        found_verdict = None if correlation is None else verdict(correlation)
        rows.append((*ids, *bits, TRANSFORMS[transform], correlation, found_verdict, *names))
    found = pl.DataFrame(rows, schema=pairs_schema(pool.hashes.channels), orient="row")
    return found.sort(pl.col("correlation").fill_null(0.0), descending=True, maintain_order=True)


def _default_limits(datasets: Sequence[Dataset]) -> dict[str, int]:
    """Return the limits of the default channels, and of all others if datasets have only one of them in common."""
    common = [name for name in datasets[0].channels if all(name in each.channels for each in datasets)]
    usual = {name: bits for name, bits in DEFAULT_LIMITS.items() if name in common}
    if len(usual) >= LEAST_CHANNELS or len(common) == len(usual):
        return dict(DEFAULT_LIMITS)
    return {name: DEFAULT_LIMITS.get(name, OTHER_LIMIT) for name in common}


def verdict(correlation: float) -> Verdict:
    """Return the verdict on a pair with a given registered correlation."""
    if correlation >= COPY:
        return "copy"
    return "doubtful" if correlation >= DOUBTFUL else "different"


def write_duplicates(pairs: pl.DataFrame, path: str | Path) -> None:
    """Write a table of pairs to a new CSV file, which :func:`~cytoloc.curation.pairs.read_matches` can read.

    Args:
        pairs: The table of :func:`find_duplicates`.
        path: The new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        OutputExistsError: If the file exists.
    """
    check_type(pairs, pl.DataFrame, argument="pairs")
    check_type(path, (str, Path), argument="path")
    with new_file(Path(path)) as temporary:
        pairs.write_csv(temporary, float_precision=4)


def groups_of(pairs: pl.DataFrame) -> list[list[str]]:
    """Return groups of ids that pairs connect, directly or through other fields; the largest group first.

    Args:
        pairs: A table with the columns ``a`` and ``b``.

    Returns:
        The ids of each group.
    """
    ids = sorted({*pairs["a"], *pairs["b"]})
    position = {name: row for row, name in enumerate(ids)}
    links = [(position[a], position[b]) for a, b in pairs.select("a", "b").iter_rows()]
    groups: dict[int, list[str]] = {}
    for name, number in zip(ids, components(links, len(ids)), strict=True):
        groups.setdefault(int(number), []).append(name)
    return sorted(groups.values(), key=len, reverse=True)
