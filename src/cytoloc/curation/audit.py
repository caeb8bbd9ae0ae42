"""How far two sources of labels agree on the fields that they share, and corrections for one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
from scipy.stats import beta

from cytoloc._typing import FloatArray, IntArray, LabelIndices
from cytoloc.choices import check_type, refuse_unknown
from cytoloc.curation.pairs import PairSource, tied_ids
from cytoloc.dataset.labeled import LabelSource, known_labels, open_labels
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError
from cytoloc.files import new_file
from cytoloc.label_conversion import conversion, convert_labels
from cytoloc.labels.hpa_names import HpaId, parse_hpa_id
from cytoloc.labels.label_list import LabelList
from cytoloc.labels.label_set import LabelSet

Origins = Mapping[str, HpaId]
"""Where fields come from, by their ids."""


class Matched(NamedTuple):
    """Two label sets that should be the same.

    Attributes:
        a: The id of the field in the audited list.
        b: The id of the field in the trusted list.
        listed: Indices of locations in the audited list.
        true: Indices of locations in the trusted one.
    """

    a: str
    b: str
    listed: tuple[int, ...]
    true: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Audit:
    """What the comparison of two label sources gives.

    Attributes:
        matched: What was compared.
        unmatched: Pairs of which one side is not in its list.
        equal: How many label sets are equal.
        classes: A row per location: ``key``, ``location``, ``both``, ``only_listed``, ``only_true``; ``precision``,
            ``recall``, ``f1`` of the audited list; and ``wrong``, the share of its labels that are wrong, with a 95 %
            interval.
        micro_f1: F1 of all labels together.
        macro_f1: Mean F1 of the classes that either source has.
        listed: The audited list.
        origins: Where fields come from, if their ids do not say it.
        conversion: What the conversion of the list to the label set of the truth does, in sentences; empty if they have
            the same label set.
    """

    matched: Sequence[Matched]
    unmatched: int
    equal: int
    classes: pl.DataFrame
    micro_f1: float
    macro_f1: float
    listed: LabelIndices = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    conversion: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Audit({len(self.matched)} pairs, {self.equal} equal, micro F1 {self.micro_f1:.3f})"

    def by(self, group: Literal["antibody", "well"]) -> pl.DataFrame:
        """Return for each antibody, or well, how many of its fields agree: worst first."""
        refuse_unknown(group, ("antibody", "well"), argument="group")
        rows = []
        for each in self.matched:
            origin = _origin(each.a, self.origins)
            if origin is not None:
                name = origin.antibody if group == "antibody" else "_".join(origin.place)
                rows.append((name, set(each.listed) == set(each.true)))
        table = pl.DataFrame(rows, schema={group: pl.String, "equal": pl.Boolean}, orient="row").drop_nulls()
        grouped = table.group_by(group).agg(
            fields=pl.len(), equal=pl.col("equal").sum(), different=pl.col("equal").not_().sum()
        )
        return grouped.sort("different", group, descending=[True, False])

    def corrections(self) -> dict[str, tuple[int, ...]]:
        """Return corrected labels for all fields of wells in which the truth differs from the list.

        Labels belong to wells, so the truth of one field applies to all fields of its well. Wells whose matched fields
        contradict each other stay as they are.
        """
        truths: dict[tuple[str, str], set[tuple[int, ...]]] = {}
        of_field: dict[str, set[tuple[int, ...]]] = {}
        for each in self.matched:
            origin = _origin(each.a, self.origins)
            place = truths.setdefault(origin.place, set()) if origin else of_field.setdefault(each.a, set())
            place.add(tuple(sorted(each.true)))
        corrected = {}
        for name, labels in self.listed.items():
            origin = _origin(name, self.origins)
            known = truths.get(origin.place, set()) if origin else of_field.get(name, set())
            if len(known) == 1 and (right := next(iter(known))) != tuple(sorted(labels)):
                corrected[name] = right
        return corrected

    def summary(self) -> list[str]:
        """Return the comparison in words, and a line per location."""
        total = len(self.matched)
        missing = f" ({self.unmatched} pair{'s' * (self.unmatched != 1)} not in both lists)" if self.unmatched else ""
        lines = [
            f"{total} pair{'s' * (total != 1)} compared{missing}: {self.equal} label sets equal,"
            f" {self.equal / total:.1%}.",
            f"micro F1 {self.micro_f1:.3f}, macro F1 {self.macro_f1:.3f}",
            "",
            f"{'location':<43} {'both':>6} {'only listed':>12} {'only true':>10} {'F1':>6}  wrong labels (95 %)",
        ]
        for row in self.classes.filter(pl.col("f1").is_not_null()).iter_rows(named=True):
            interval = "" if row["wrong"] is None else f"({row['wrong_low']:.1%} to {row['wrong_high']:.1%})"
            wrong = f"{row['wrong']:.1%} {interval}" if interval else ""
            name = f"{row['key']:>2} {row['location']}" if row["key"].isdecimal() else row["location"]
            counts = f"{row['both']:>6} {row['only_listed']:>12} {row['only_true']:>10}"
            lines.append(f"{name:<43} {counts} {row['f1']:>6.3f}  {wrong}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {
            "matched": len(self.matched),
            "unmatched": self.unmatched,
            "equal": self.equal,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "classes": self.classes.to_dicts(),
        }


def audit_labels(
    listed: LabelSource,
    truth: LabelSource,
    *,
    pairs: PairSource | None = None,
    match: Literal["field", "well"] = "field",
    label_set: LabelSet | str | None = None,
    truth_label_set: LabelSet | str | None = None,
) -> Audit:
    """Return how far a label list agrees with labels that are trusted.

    Args:
        listed: The labels to audit: a dataset, a label list, or the path of either.
        truth: The labels that are trusted, likewise.
        pairs: Which field of the list is which trusted one; by default those of the same id.
        match: ``"well"`` compares a field of the list with the truth of another field of its well.
        label_set: The label set of the list, if it is a CSV; by default hpa28.
        truth_label_set: The label set of the truth, if it is another one; the list is converted to it.

    Raises:
        TableError: If the two share no field.
        SettingsError: If ``match`` is unknown.
        LabelSetError: If there is no such label set.
    """
    refuse_unknown(match, ("field", "well"), argument="match")
    own = open_labels(listed, label_set=label_set, argument="listed")
    is_csv = isinstance(truth, str | Path) and Path(truth).is_file()
    trusted = open_labels(truth, label_set=truth_label_set or (own.label_set if is_csv else None), argument="truth")
    have, true = known_labels(own), known_labels(trusted)
    notes: tuple[str, ...] = ()
    if truth_label_set is None:
        own.label_set.refuse_other(trusted.label_set, what=str(trusted.path), than=str(own.path))
    elif not own.label_set.matches(trusted.label_set):
        by_names = conversion(own.label_set, trusted.label_set)
        converted = convert_labels(have, by_names)
        have = converted.labels | dict.fromkeys(converted.emptied, ())
        lost = len(converted.emptied)
        left = f"{lost} field{'s' * (lost != 1)} of {own.path} lost all labels and count as having none."
        notes = (*by_names.summary(), left)
    if pairs is None and not set(have) & set(true):
        raise TableError(
            f"{own.path} and {trusted.path} share no id.",
            hint="Give `pairs`, which says which field of one is which field of the other.",
        )
    tied = [(name, name) for name in have if name in true] if pairs is None else tied_ids(pairs, doubtful=False)
    origins = _origins_of(trusted) | _origins_of(own)
    if match == "well":
        matched, unmatched = match_wells(have, true, tied, origins=origins)
    else:
        matched, unmatched = match_fields(have, true, tied)
    result = compare_labels(matched, unmatched, label_set=trusted.label_set)
    return replace(result, listed=have, origins=origins, conversion=notes)


def _origins_of(source: Dataset | LabelList) -> dict[str, HpaId]:
    """Return where the fields of a dataset come from; the ids of a list say it themselves."""
    if isinstance(source, LabelList):
        return {}
    rows = source.fields.select("id", "antibody", "plate", "well", "field").iter_rows()
    return {
        name: HpaId(antibody, plate, well, number or name)
        for name, antibody, plate, well, number in rows
        if plate is not None and well is not None
    }


def match_fields(
    listed: LabelIndices, true: LabelIndices, pairs: Iterable[tuple[str, str]]
) -> tuple[list[Matched], int]:
    """Return the label sets of each pair of fields, and how many pairs are not in both lists."""
    matched, unmatched = [], 0
    for a, b in pairs:
        if a in listed and b in true:
            matched.append(Matched(a, b, listed[a], true[b]))
        else:
            unmatched += 1
    return matched, unmatched


def match_wells(
    listed: LabelIndices, true: LabelIndices, pairs: Iterable[tuple[str, str]], *, origins: Origins | None = None
) -> tuple[list[Matched], int]:
    """Return for each pair the label set of another field of the well in which ``a`` was imaged.

    This shows whether labels belong to wells. If a well has several other fields, the first one is used.
    """
    wells: dict[tuple[str, str], list[tuple[HpaId, str]]] = {}
    for name in listed:
        origin = _origin(name, origins)
        if origin is not None:
            wells.setdefault(origin.place, []).append((origin, name))
    matched, unmatched = [], 0
    for a, b in pairs:
        here = _origin(a, origins)
        others = wells.get(here.place, []) if here else []
        other = next((name for origin, name in others if here and origin.field != here.field), None)
        if other is None or b not in true:
            unmatched += 1
        else:
            matched.append(Matched(other, b, listed[other], true[b]))
    return matched, unmatched


def compare_labels(matched: Sequence[Matched], unmatched: int = 0, *, label_set: LabelSet) -> Audit:
    """Return how far two label sources agree.

    Raises:
        TableError: If nothing was matched.
    """
    if not matched and not unmatched:
        raise TableError("There are no pairs.", hint="Give a list that names at least one.")
    if not matched:
        raise TableError(
            f"No pair is in both lists; there are {unmatched}.",
            hint="Pairs name a field of the audited list first, and one of the trusted list second;"
            " to match wells, ids of the first must name them.",
        )
    listed = label_set.to_matrix(each.listed for each in matched)
    true = label_set.to_matrix(each.true for each in matched)
    both, only_listed, only_true = (listed & true).sum(0), (listed & ~true).sum(0), (~listed & true).sum(0)
    # Jeffreys's 95 % interval of a rate (Brown, Cai & DasGupta 2001); NaN where there is nothing to count.
    low = np.asarray(beta.ppf(0.025, only_listed + 0.5, both + 0.5))
    high = np.asarray(beta.ppf(0.975, only_listed + 0.5, both + 0.5))
    low[only_listed == 0], high[both == 0] = 0.0, 1.0
    low[both + only_listed == 0], high[both + only_listed == 0] = np.nan, np.nan
    present = both + only_listed + only_true > 0
    f1 = _ratio(2 * both, 2 * both + only_listed + only_true)
    table = pl.DataFrame(
        {
            "key": list(label_set.keys),
            "location": list(label_set.names),
            "both": both,
            "only_listed": only_listed,
            "only_true": only_true,
            "precision": _ratio(both, both + only_listed),
            "recall": _ratio(both, both + only_true),
            "f1": f1,
            "wrong": _ratio(only_listed, both + only_listed),
            "wrong_low": low,
            "wrong_high": high,
        }
    ).with_columns(pl.selectors.float().fill_nan(None))
    equal = int((listed == true).all(axis=1).sum())
    micro = 2 * both.sum() / (2 * both + only_listed + only_true).sum()
    return Audit(matched, unmatched, equal, table, float(micro), float(f1[present].mean()))


def write_corrections(listed: LabelIndices, corrected: LabelIndices, path: Path, label_set: LabelSet) -> None:
    """Write a label list with corrections as CSV ``Id,Target,Was`` to a path that must be free.

    ``Was`` is what the list had, empty where nothing was corrected.
    """
    check_type(listed, Mapping, argument="listed")
    check_type(corrected, Mapping, argument="corrected")
    check_type(path, (str, Path), argument="path")
    check_type(label_set, LabelSet, argument="label_set")
    rows = [
        (name, label_set.format(corrected.get(name, ids)), label_set.format(ids) if name in corrected else None)
        for name, ids in listed.items()
    ]
    with new_file(path) as temporary:
        pl.DataFrame(rows, schema=["Id", "Target", "Was"], orient="row").write_csv(temporary)


def _origin(name: str, origins: Origins | None) -> HpaId | None:
    return (origins or {}).get(name) or parse_hpa_id(name)


def _ratio(part: IntArray, whole: IntArray) -> FloatArray:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0), np.float64)
