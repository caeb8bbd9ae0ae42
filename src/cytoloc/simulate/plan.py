"""The plan of a simulated study: genes, antibodies, wells and fields.

Labels belong to wells. As in real data, the antibodies of a gene and the wells of an antibody mostly show the same
locations. Combinations of locations are as frequent as in the 2018 Kaggle training set.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl

from cytoloc.choices import check_type
from cytoloc.dataset.fields import FieldRow
from cytoloc.errors import SettingsError, TableError
from cytoloc.files import existing
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_csv
from cytoloc.simulate.cell_lines import CELL_LINES

Kind = Literal["jpeg", "dimmed", "shifted", "turned"]
Locations = tuple[int, ...]
"""Indices of locations in the label set ``hpa28``."""

KINDS: Final[tuple[Kind, ...]] = ("jpeg", "dimmed", "shifted", "turned")
"""Changes by which a simulated near-duplicate differs from its original."""

PIXEL_UM: Final = 0.32
"""Pixel size of a field of 512 px: the Human Protein Atlas has 0.08 µm at 2048 px."""

OTHER_LABELS: Final = 0.3
"""Share of wells whose locations differ from the first well of the gene."""


MOST_PX: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Design:
    """The design of simulated fields.

    Attributes:
        n_fields: Number of fields.
        seed: Random seed. The same seed gives the same bytes.
        size: Edge length of the images, in pixels.
        evenness: Class balance. 0: frequencies as in real data. 1: combinations of locations are weighted by the
            inverse frequency of their rarest location.
        label_sets: Combinations of locations and their shares, which sum to 1. Default: as in the 2018 training set.
        duplicates: Share of fields that are near-duplicates of other fields.
        gain: Brightness relative to real training images.
        original_px: Edge length of the raw images, in pixels, which are scaled down to ``size``. Default: ``size``.
    """

    n_fields: int
    seed: int = 0
    size: int = 512
    evenness: float = 0.0
    label_sets: tuple[tuple[Locations, float], ...] | None = None
    duplicates: float = 0.0
    gain: float = 1.0
    original_px: int | None = None

    def check(self) -> None:
        """Raise unless fields of this design can be simulated.

        Raises:
            ArgumentTypeError: If a value has the wrong type.
            SettingsError: If a value is out of range.
        """
        for name in ("n_fields", "seed", "size"):
            check_type(getattr(self, name), int, argument=name)
        if self.n_fields < 1:
            raise SettingsError(f"`n_fields` is {self.n_fields}, but must be 1 or more.")
        if self.seed < 0:
            raise SettingsError(f"`seed` is {self.seed}, but must be 0 or more.")
        if not 32 <= self.size <= MOST_PX:
            raise SettingsError(f"`size` is {self.size} px, but must be from 32 to {MOST_PX} px.")
        if self.original_px is not None and not self.size <= self.original_px <= MOST_PX:
            raise SettingsError(
                f"`original_px` is {self.original_px}, but must be from {self.size} (the size) to {MOST_PX} px."
            )
        if not 0 <= self.evenness <= 1:
            raise SettingsError(f"`evenness` is {self.evenness:g}, but must be from 0 to 1.")
        if not 0 <= self.duplicates < 1 or round(self.duplicates * self.n_fields) >= self.n_fields:
            raise SettingsError(
                f"`duplicates` is {self.duplicates:g}, but at least one of {self.n_fields} fields must be an original.",
                hint="Choose a smaller share, from 0.",
            )


@dataclass(frozen=True)
class FieldPlan:
    """The content of one field.

    Attributes:
        seed: The random seed of the study.
        number: The number of the field in the study. Seed and number determine the random numbers of the field.
        row: The row in the dataset. Its labels can be wrong or missing.
        locations: The true locations of the protein.
        strengths: The relative brightness of each location.
        antibody: The number of the antibody, which determines its unspecific binding.
        line: The number of the cell line; None for any.
        gain: Brightness relative to real training images.
        copy_of: The plan of the original, if the field is a near-duplicate.
        kind: The difference from the original.
    """

    seed: int
    number: int
    row: FieldRow
    locations: Locations
    strengths: tuple[float, ...]
    antibody: int = 0
    line: int | None = None
    gain: float = 1.0
    copy_of: FieldPlan | None = None
    kind: Kind | None = None


def plan_study(design: Design) -> list[FieldPlan]:
    """Return the plans of all fields of a study.

    Args:
        design: The design.

    Returns:
        One plan per field.

    Raises:
        ArgumentTypeError: If ``design`` is not a design.
        SettingsError: If a value of the design is out of range.
    """
    check_type(design, Design, argument="design")
    design.check()
    rng = np.random.default_rng([design.seed, 0])
    copies = round(design.duplicates * design.n_fields)
    plans: list[FieldPlan] = []
    for number, (row, strengths, antibody, line) in enumerate(_fields(design, rng)):
        if number == design.n_fields - copies:
            break
        named = replace(row, id=_name(design, number))
        plans.append(FieldPlan(design.seed, number, named, row.labels or (), strengths, antibody, line, design.gain))
    for _ in range(copies):
        original = plans[int(rng.integers(design.n_fields - copies))]
        number = len(plans)
        row = replace(original.row, id=_name(design, number), field=f"{original.row.field}c{number}")
        kind = KINDS[int(rng.integers(len(KINDS)))]
        plans.append(replace(original, number=number, row=row, copy_of=original, kind=kind))
    return plans


def plan_one(location: int, *, seed: int, size: int) -> FieldPlan:
    """Return the plan of a field with a single location at full brightness.

    Args:
        location: The index of the location in ``hpa28``.
        seed: Random seed.
        size: Edge length of the image, in pixels.

    Returns:
        The plan.
    """
    design = Design(n_fields=1, seed=seed, size=size, label_sets=(((location,), 1.0),))
    design.check()
    row = FieldRow(
        id=_name(design, location), source="simulated", labels=(location,), original_px=size, original_width_px=size
    )
    return FieldPlan(seed, location, row, (location,), (1.0,), antibody=location)


def read_frequencies(path: Path) -> tuple[tuple[Locations, float], ...]:
    """Read combinations of locations and their shares from a CSV file with columns ``Target,share``.

    Args:
        path: The file.

    Returns:
        Indices of locations in ``hpa28``, and shares that sum to 1.

    Raises:
        TableError: If columns are missing, a label is unknown, or the shares do not sum to 1.
    """
    table = read_csv(existing(path))
    if not {"Target", "share"} <= set(table.columns):
        raise TableError(
            f"{path} has the columns {', '.join(table.columns)}, but needs Target and share.",
            hint="Give a CSV file with the columns Target and share.",
        )
    shares = table["share"].cast(pl.Float64, strict=False)
    if not table.height or not (shares.fill_null(-1.0).is_finite() & (shares.fill_null(-1.0) >= 0)).all():
        raise TableError(f"{path}: shares must be numbers from 0.", hint="Give one share per row.")
    if abs(float(shares.sum()) - 1) > 1e-6:
        raise TableError(f"{path}: the shares sum to {shares.sum():g} instead of 1.", hint="Divide them by their sum.")
    label_set = LabelSet.hpa28()
    sets = [
        label_set.parse(text or "", where=f"{path}, row {row}") for row, text in enumerate(table["Target"], start=1)
    ]
    return tuple(zip(sets, shares.to_list(), strict=True))


@cache
def real_label_sets() -> tuple[tuple[Locations, float], ...]:
    """Return the 577 combinations of locations of the 31,072 fields of the 2018 training set, with their shares."""
    text = files("cytoloc.simulate").joinpath("label_sets.csv").read_bytes()
    table = pl.read_csv(text, schema={"Target": pl.String, "fields": pl.Int64})
    total = int(table["fields"].sum())
    return tuple((tuple(int(word) for word in words.split()), count / total) for words, count in table.iter_rows())


def _fields(design: Design, rng: np.random.Generator) -> Iterator[tuple[FieldRow, tuple[float, ...], int, int]]:
    """Yield an endless sequence of fields: row, strengths, number of the antibody, number of the cell line."""
    sets = design.label_sets or real_label_sets()
    # Combinations with a rare location get a larger share.
    shares = np.array([share for _, share in sets])
    of_location = np.zeros(len(LabelSet.hpa28()))
    for locations, share in sets:
        of_location[list(locations)] += share
    rarest = np.array([of_location[list(locations)].min() for locations, _ in sets])
    shares = shares / np.where(shares > 0, rarest, 1.0) ** design.evenness
    shares /= shares.sum()
    lines = [line.share for line in CELL_LINES]
    gene, antibody, place = 0, 0, 0
    while True:
        gene += 1
        labels = sets[int(rng.choice(len(sets), p=shares))][0]
        for _ in range(1 + int(rng.uniform() < 0.3)):
            antibody += 1
            for well in range(1 + int(rng.choice(3, p=[0.6, 0.3, 0.1]))):
                place += 1
                line = int(rng.choice(len(lines), p=lines))
                other = sets[int(rng.choice(len(sets), p=shares))][0]
                here = labels
                # Another well of a gene mostly has the same locations, otherwise one less or one more.
                if (well or rng.uniform() < 0.3) and rng.uniform() <= OTHER_LABELS:
                    if len(labels) > 1 and rng.uniform() < 0.5:
                        left_out = int(rng.integers(len(labels)))
                        here = labels[:left_out] + labels[left_out + 1 :]
                    else:
                        here = tuple(sorted({*labels, other[int(rng.integers(len(other)))]}))
                strengths = tuple(float(each) for each in rng.uniform(0.55, 1.0, len(here)))
                row = FieldRow(
                    id="",
                    source="simulated",
                    labels=here,
                    antibody=f"SIM{design.seed}-{antibody:05d}",
                    plate=f"{design.seed}-{1 + place // 96}",
                    well=f"{'ABCDEFGH'[place % 96 // 12]}{1 + place % 12}",
                    gene=f"SIMG{design.seed}-{gene:05d}",
                    cell_line=CELL_LINES[line].name,
                    original_px=design.original_px or design.size,
                    original_width_px=design.original_px or design.size,
                    pixel_um=PIXEL_UM * 512 / (design.original_px or design.size),
                )
                for number in range(1, int(rng.integers(2, 6))):
                    yield replace(row, field=str(number)), strengths, antibody, line


def _name(design: Design, number: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"cytoloc simulated field {design.seed} {number}"))
