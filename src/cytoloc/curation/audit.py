"""Comparison of two sources of labels for the same fields, and corrections of one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

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
"""Plates, wells and antibodies of fields, by id."""


class Matched(NamedTuple):
    """The labels of a field in two sources.

    Attributes:
        a: The id of the field in the audited labels.
        b: The id of the field in the trusted labels.
        listed: Indices of the audited locations.
        true: Indices of the trusted locations.
    """

    a: str
    b: str
    listed: tuple[int, ...]
    true: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Audit:
    """The result of comparing labels with trusted labels.

    Attributes:
        matched: The compared fields.
        unmatched: The number of pairs with a field that is missing in its source.
        equal: The number of fields with equal labels.
        classes: A table with one row per location. Columns: ``key``, ``location``; the numbers of fields ``both``,
            ``only_listed``, ``only_true``; ``precision``, ``recall`` and ``f1`` of the audited labels; and ``wrong``,
            the share of audited labels that are wrong, with its 95 % interval.
        micro_f1: Micro F1 over all labels.
        macro_f1: Macro F1 over the locations that occur in either source.
        listed: The audited labels.
        origins: The plates, wells and antibodies of fields whose ids do not contain them.
        conversion: Sentences about the conversion of the audited labels to the trusted label set; empty if there was
            none.
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
        """Return the agreement per antibody or well.

        Args:
            group: ``"antibody"`` or ``"well"``.

        Returns:
            A table with the numbers of ``fields``, of ``equal`` and of ``different`` ones; the most different first.

        Raises:
            SettingsError: If ``group`` is unknown.
        """
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
        """Return corrected labels.

        Labels belong to wells, so the trusted labels of a field are applied to all fields of its well. Wells with
        contradicting trusted labels are not corrected.

        Returns:
            Indices of the locations of each field whose labels change, by id.
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
        """Return the comparison as lines of text, with one line per location."""
        total = len(self.matched)
        missing = f" ({self.unmatched} pair{'s' * (self.unmatched != 1)} not in both lists)" if self.unmatched else ""
        lines = [
            f"{total} pair{'s' * (total != 1)} compared{missing}: the locations are equal in {self.equal}"
            f" ({self.equal / total:.1%}).",
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
        """Return the results as JSON values."""
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
    """Compare labels with trusted labels.

    Args:
        listed: The labels to audit: a dataset, a label list, or the path of either.
        truth: The trusted labels, in the same forms.
        pairs: Pairs of an audited and a trusted field that show the same field. Default: fields with the same id.
        match: ``"field"`` compares each field with its own trusted labels; ``"well"`` compares it with the trusted
            labels of another field of its well.
        label_set: The label set of the audited labels, if they are a CSV file. Default: hpa28.
        truth_label_set: The label set of the trusted labels, if it differs. The audited labels are converted to it.

    Returns:
        The comparison.

    Raises:
        TableError: If the two sources share no field.
        SettingsError: If ``match`` is unknown.
        LabelSetError: If a label set is unknown, or the label sets differ and ``truth_label_set`` is not given.
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
        left = f"{lost} field{'s' * (lost != 1)} of {own.path} lost all labels and are compared as fields without any."
        notes = (*by_names.summary(), left)
    if pairs is None and not set(have) & set(true):
        raise TableError(
            f"{own.path} and {trusted.path} share no id.",
            hint="Give `pairs`, a list of pairs of an audited and a trusted field.",
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
    """Return the origins of the fields of a dataset; ids of a label list contain them."""
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
    """Return the labels of each pair of fields.

    Args:
        listed: The audited labels.
        true: The trusted labels.
        pairs: Pairs of an audited and a trusted field.

    Returns:
        The labels of the pairs, and the number of pairs with a field that is missing in its source.
    """
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
    """Return the labels of each pair, with the audited labels of another field of the same well.

    This shows whether labels belong to wells. If a well has several other fields, the first one is used.

    Args:
        listed: The audited labels.
        true: The trusted labels.
        pairs: Pairs of an audited and a trusted field.
        origins: Plates and wells of fields whose ids do not contain them.

    Returns:
        The labels of the pairs, and the number of pairs without another field or trusted labels.
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
    """Compare the labels of matched fields.

    Args:
        matched: The labels of each field in both sources.
        unmatched: The number of fields that are missing in one source.
        label_set: The label set of both sources.

    Returns:
        The comparison.

    Raises:
        TableError: If there are no matched fields.
    """
    # Imported late, because it takes long and few need it.
    from scipy.stats import beta

    if not matched and not unmatched:
        raise TableError("The list of pairs is empty.", hint="Give a list with at least one pair.")
    if not matched:
        raise TableError(
            f"None of {unmatched} pairs is in both label lists.",
            hint="Give pairs with an audited field first and a trusted field second; to match wells, ids of audited"
            " fields must contain them.",
        )
    listed = label_set.to_matrix(each.listed for each in matched)
    true = label_set.to_matrix(each.true for each in matched)
    both, only_listed, only_true = (listed & true).sum(0), (listed & ~true).sum(0), (~listed & true).sum(0)
    # Jeffreys's 95 % interval of a proportion (Brown, Cai & DasGupta 2001); NaN if the denominator is 0.
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
    """Write corrected labels to a new CSV file ``Id,Target,Was``; ``Was`` contains the earlier labels if they changed.

    Args:
        listed: The original labels: indices of locations, by id.
        corrected: The labels of fields that change.
        path: The new file.
        label_set: The label set of both.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        OutputExistsError: If the file exists.
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
