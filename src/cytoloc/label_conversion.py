"""Conversion of labels and predictions from one label set to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from cytoloc.choices import check_type
from cytoloc.errors import LabelSetError
from cytoloc.files import new_file
from cytoloc.labels.hpa_names import hpa_names, shipped_name
from cytoloc.labels.label_set import LabelSet, as_label_set
from cytoloc.labels.lists import read_csv, read_labels
from cytoloc.predictions import Predictions


@dataclass(frozen=True)
class Conversion:
    """The mapping from the locations of one label set to the locations of another.

    Attributes:
        source: The label set to convert from.
        target: The label set to convert to.
        candidates: For each location of ``source``, the indices of the locations of ``target`` that it can mean. A
            location with one candidate is converted; one without candidates is lost; one with several candidates is
            ambiguous and also lost.
    """

    source: LabelSet
    target: LabelSet
    candidates: tuple[tuple[int, ...], ...]

    def __getitem__(self, index: int) -> int | None:
        """Return the index in ``target`` of a location of ``source``; None if the location is lost or ambiguous."""
        found = self.candidates[index]
        return found[0] if len(found) == 1 else None

    @property
    def sources(self) -> dict[int, tuple[int, ...]]:
        """The locations of ``source`` that are converted to each location of ``target``, by index."""
        found: dict[int, tuple[int, ...]] = {}
        for index in range(len(self.source)):
            target = self[index]
            if target is not None:
                found[target] = (*found.get(target, ()), index)
        return dict(sorted(found.items()))

    @property
    def kept(self) -> dict[int, int]:
        """The index in ``target`` of each location of ``source`` that is converted without merging."""
        return {indices[0]: target for target, indices in self.sources.items() if len(indices) == 1}

    @property
    def merged(self) -> dict[int, tuple[int, ...]]:
        """The locations of ``source`` that are merged, by the index of the location of ``target``."""
        return {target: indices for target, indices in self.sources.items() if len(indices) > 1}

    @property
    def lost(self) -> tuple[int, ...]:
        """The locations of ``source`` without a counterpart in ``target``."""
        return tuple(index for index, found in enumerate(self.candidates) if not found)

    @property
    def ambiguous(self) -> dict[int, tuple[int, ...]]:
        """The candidates in ``target`` of each ambiguous location of ``source``."""
        return {index: found for index, found in enumerate(self.candidates) if len(found) > 1}

    @property
    def never(self) -> tuple[int, ...]:
        """The locations of ``target`` that no location of ``source`` is converted to."""
        return tuple(index for index in range(len(self.target)) if index not in self.sources)

    def to_json(self) -> dict[str, Any]:
        """Return the merged, lost, ambiguous and missing locations by key, as JSON values."""
        source, target = self.source, self.target
        return {
            "from": source.name,
            "to": target.name,
            "merged": {target[index].key: list(source.keys_of(indices)) for index, indices in self.merged.items()},
            "lost": list(source.keys_of(self.lost)),
            "ambiguous": {source[index].key: list(target.keys_of(found)) for index, found in self.ambiguous.items()},
            "never": list(target.keys_of(self.never)),
        }

    def summary(self) -> list[str]:
        """Return sentences about the conversion: what is kept, merged, lost, ambiguous and never occurs."""
        source, target = self.source, self.target
        merged = [f"{_named(source, found)} become {target[index].name}" for index, found in self.merged.items()]
        unclear = [f"{source[index].name} ({_named(target, found, 'or')})" for index, found in self.ambiguous.items()]
        lines = [
            f"{len(self.kept)} of {len(source)} locations of {source.name} have a location of {target.name} to"
            " themselves."
        ]
        if merged:
            lines.append(f"Merged: {'; '.join(merged)}.")
        if self.lost:
            lines.append(f"Lost, because {target.name} has no such location: {_named(source, self.lost, ',')}.")
        if unclear:
            lines.append(f"Lost, because several locations of {target.name} are possible: {'; '.join(unclear)}.")
        if self.never:
            lines.append(f"Never in the result: {_named(target, self.never, ',')}.")
        return lines


class ConvertedLabels(NamedTuple):
    """Labels that were converted to another label set.

    Attributes:
        labels: Indices of the locations of each field that has at least one label, by id.
        emptied: Ids of the fields that lost all their labels.
        reduced: Ids of the fields that lost some of their labels.
    """

    labels: dict[str, tuple[int, ...]]
    emptied: tuple[str, ...]
    reduced: tuple[str, ...]


def conversion(source: LabelSet | str, target: LabelSet | str) -> Conversion:
    """Return the conversion from one label set to another.

    Shipped label sets are converted through the location names of the Human Protein Atlas. If a location stands for a
    name and for a part of it, such as Nucleoli and Nucleoli rim, the part is ignored. Other label sets are converted by
    equal names, without regard to case.

    Args:
        source: The label set to convert from: a label set, its name, or its file.
        target: The label set to convert to, in the same forms.

    Returns:
        The conversion.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        LabelSetError: If no location of ``source`` has a counterpart in ``target``.

    >>> found = conversion(LabelSet.hpa28(), LabelSet.hpa19())
    >>> [LabelSet.hpa28()[index].name for index in found.lost]
    ['Microtubule ends', 'Cytokinetic bridge', 'Rods & rings']
    """
    source, target = as_label_set(source, argument="source"), as_label_set(target, argument="target")
    one, other = shipped_name(source), shipped_name(target)
    candidates: tuple[tuple[int, ...], ...]
    if source.matches(target):
        candidates = tuple((index,) for index in range(len(source)))
    elif one and other:
        by_key = []
        for key in source.keys:
            meant = {each.name: each for each in hpa_names() if each.keys.get(one) == key}
            wholes = [each for each in meant.values() if each.part_of not in meant]
            by_key.append(tuple(sorted({target.index(each.keys[other]) for each in wholes if other in each.keys})))
        candidates = tuple(by_key)
    else:
        names = {name.casefold(): index for index, name in enumerate(target.names)}
        candidates = tuple((names[word],) if (word := name.casefold()) in names else () for name in source.names)
    if not any(candidates):
        raise LabelSetError(
            f"The label sets {source} and {target} have no location in common.",
            hint="Your own label sets are converted by location name: use the same names in both.",
        )
    return Conversion(source, target, candidates)


def convert_labels(labels: Mapping[str, Iterable[int]], by: Conversion) -> ConvertedLabels:
    """Convert labels to another label set.

    Args:
        labels: Indices of the locations of each field, by id.
        by: The conversion.

    Returns:
        The converted labels. Fields that lose all their labels are left out and listed in ``emptied``.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
    """
    check_type(labels, Mapping, argument="labels")
    check_type(by, Conversion, argument="by")
    given = {name: tuple(indices) for name, indices in labels.items()}
    converted = {
        name: tuple(sorted({found for index in indices if (found := by[index]) is not None}))
        for name, indices in given.items()
    }
    lossy = {name for name, indices in given.items() if any(by[index] is None for index in indices)}
    return ConvertedLabels(
        {name: indices for name, indices in converted.items() if indices},
        tuple(name for name, indices in converted.items() if not indices),
        tuple(name for name, indices in converted.items() if indices and name in lossy),
    )


def convert_label_list(path: Path, by: Conversion, out: Path) -> tuple[int, int, int]:
    """Convert a CSV file of labels or predicted locations to another label set, and write it to a new file.

    Args:
        path: CSV file with columns ``Id,Target`` or ``Id,Predicted``. With ``Id,Predicted``, a field that loses all
            its labels stays, with an empty cell.
        by: The conversion.
        out: The new CSV file.

    Returns:
        The number of fields written, of fields that lost all labels, and of fields that lost some labels.
    """
    column = "Predicted" if "Predicted" in read_csv(path).columns else None
    labels = read_labels(path, by.source, column=column, blank=column is not None)
    converted, emptied, reduced = convert_labels(labels, by)
    written = {name: converted.get(name, ()) for name in labels} if column else converted
    cells = [by.target.format(indices) for indices in written.values()]
    with new_file(out) as temporary:
        pl.DataFrame({"Id": list(written), column or "Target": cells}).write_csv(temporary)
    return len(written), sum(bool(labels[name]) for name in emptied), len(reduced)


def convert_predictions(predictions: Predictions, by: Conversion) -> Predictions:
    """Convert predictions to another label set.

    A location that is merged from several ones gets the highest of their probabilities. A location without a
    counterpart gets probability 0, and the provenance lists it.

    Args:
        predictions: The predictions.
        by: The conversion; its source must be the label set of the predictions.

    Returns:
        The converted predictions.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        LabelSetError: If the predictions have another label set than the source of the conversion.
    """
    check_type(predictions, Predictions, argument="predictions")
    check_type(by, Conversion, argument="by")
    by.source.refuse_other(predictions.label_set, what="the predictions", than="the conversion")
    values = np.zeros((len(predictions), len(by.target)), np.float32)
    for target, indices in by.sources.items():
        values[:, target] = predictions.probabilities[:, list(indices)].max(axis=1)
    return replace(
        predictions,
        probabilities=values,
        label_set=by.target,
        provenance={**predictions.provenance, "converted": by.to_json()},
        decided=None,
    )


def _named(label_set: LabelSet, indices: Iterable[int], last: str = "and") -> str:
    """Return the names of locations as an enumeration."""
    *names, final = [label_set[index].name for index in indices]
    if last == ",":
        return ", ".join([*names, final])
    return f"{', '.join(names)} {last} {final}" if names else final
