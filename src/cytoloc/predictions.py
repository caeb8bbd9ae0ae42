"""Predictions: a probability for every field and location, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc._typing import BoolArray, Float32Array
from cytoloc.choices import near
from cytoloc.errors import MissingExtraError, SettingsError, TableError, UnknownIdError
from cytoloc.labels.label_set import LabelSet, Location
from cytoloc.labels.lists import refuse_repeated

if TYPE_CHECKING:
    import pandas as pd


class FieldPrediction(NamedTuple):
    """The prediction for one field.

    Attributes:
        id: The id of the field.
        probabilities: The probability of each location, by the location's name, the highest first.
        locations: The locations that were decided on; None if no decision was made.
    """

    id: str
    probabilities: dict[str, float]
    locations: tuple[Location, ...] | None

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.2f}" for name, value in list(self.probabilities.items())[:3])
        decided = (
            "" if self.locations is None else f"; located in {', '.join(x.name for x in self.locations) or 'none'}"
        )
        return f"<{self.id}: {shown}{decided}>"


@dataclass(frozen=True, repr=False)
class Predictions:
    """Probabilities of every location for a list of fields, and the locations that were decided on.

    Attributes:
        ids: The id of each field. No id occurs twice.
        probabilities: float32 ``(n, locations)``, from 0 to 1.
        label_set: The locations of the columns.
        provenance: What made them, such as model and data; JSON values only.
        decided: bool ``(n, locations)``: the locations of each field. None if no decision was made.
        rejected: The id of each field that could not be read, with the reason.

    Raises:
        TableError: If shapes do not fit together, an id occurs twice, there are no fields, or a value is not a
            probability.

    Examples:
        >>> values = np.array([[0.9, 0.2], [0.1, 0.8]], np.float32)
        >>> found = Predictions(("a", "b"), values, LabelSet.from_names(["Cytosol", "Nucleoli"], name="two"))
        >>> found
        Predictions(2 fields, 2 locations of two)
        >>> found["b"]
        <b: Nucleoli 0.80, Cytosol 0.10>
        >>> found[:1].ids
        ('a',)
    """

    ids: tuple[str, ...]
    probabilities: Float32Array
    label_set: LabelSet
    provenance: dict[str, Any] = field(default_factory=dict)
    decided: BoolArray | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.label_set))
        for name, array in (("probabilities", self.probabilities), ("decided", self.decided)):
            if array is not None and array.shape != shape:
                raise TableError(
                    f"{name} of {shape[0]} fields and the label set {self.label_set} must have the shape {shape}, not"
                    f" {array.shape}."
                )
        refuse_repeated(self.ids, where="predictions")
        if self.probabilities.size == 0:
            raise TableError("The predictions have no rows.", hint="Give the predictions of at least one field.")
        bad = ~((self.probabilities >= 0) & (self.probabilities <= 1))
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            value, many = self.probabilities[row, column], f"({int(bad.sum())} such values)"
            where = f"Field {self.ids[row]}, location {spelled(self.label_set[column])}"
            if np.isnan(value):
                raise TableError(
                    f"{where}: the value is NaN {many}.", hint="Predict these fields again, or leave out their rows."
                )
            raise TableError(
                f"{where}: {value:g} is not a probability {many}.",
                hint="Give values from 0 to 1; logits need a sigmoid first: 1 / (1 + exp(-logit)).",
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        made = ", decided" if self.decided is not None else ""
        bad = f", {len(self.rejected)} rejected" if self.rejected else ""
        fields = f"{len(self)} field{'s' * (len(self) != 1)}"
        return f"Predictions({fields}, {len(self.label_set)} locations of {self.label_set.name}{made}{bad})"

    @overload
    def __getitem__(self, key: int | str) -> FieldPrediction: ...

    @overload
    def __getitem__(self, key: slice | list[int] | list[str] | NDArray[Any]) -> Predictions: ...

    def __getitem__(
        self, key: int | str | slice | list[int] | list[str] | NDArray[Any]
    ) -> FieldPrediction | Predictions:
        """Return one field by its number or id; or the predictions of several, by a slice, numbers, ids or a mask.

        Raises:
            IndexError: If there is no field of this number.
            UnknownIdError: If there is no field of this id.
        """
        if isinstance(key, str):
            return self._field(self._row(key))
        if isinstance(key, int | np.integer):
            if not -len(self) <= key < len(self):
                raise IndexError(f"There are {len(self)} predictions; asked for number {key}.")
            return self._field(int(key) % len(self))
        if isinstance(key, slice):
            rows = np.arange(len(self))[key]
        elif len(key) and isinstance(key[0], str):
            rows = np.array([self._row(str(name)) for name in key])
        else:
            rows = np.arange(len(self))[np.asarray(key) if len(key) else slice(0, 0)]
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            probabilities=self.probabilities[rows],
            decided=None if self.decided is None else self.decided[rows],
        )

    def __contains__(self, name: object) -> bool:
        """Return whether there is a prediction for the field of this id."""
        return name in self._rows

    def __iter__(self) -> Iterator[FieldPrediction]:
        return (self._field(row) for row in range(len(self)))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def _row(self, name: str) -> int:
        found = self._rows.get(name)
        if found is None:
            raise UnknownIdError(f"There is no prediction for the field {name!r}.", hint=near(name, self.ids[:1000]))
        return found

    def _field(self, row: int) -> FieldPrediction:
        order = np.argsort(-self.probabilities[row], kind="stable")
        values = {self.label_set[int(column)].name: float(self.probabilities[row, column]) for column in order}
        return FieldPrediction(self.ids[row], values, None if self.decided is None else self.locations[row])

    @property
    def locations(self) -> list[tuple[Location, ...]]:
        """The locations of each field, as they were decided.

        Raises:
            SettingsError: If no decision was made.
        """
        if self.decided is None:
            raise SettingsError(
                "These predictions have probabilities only: no decision was made.",
                hint="Apply one: cytoloc.fit_decision(…)(predictions); or use a bundle that has a decision.",
            )
        return [tuple(self.label_set[int(i)] for i in np.flatnonzero(row)) for row in self.decided]

    @property
    def caution(self) -> str:
        """The caution of the makers of the model; empty if there is none."""
        return str(self.provenance.get("caution", ""))

    def rows(self, ids: Sequence[str], *, where: str = "predictions") -> Float32Array:
        """Return the probabilities of ``ids``, in that order.

        Raises:
            TableError: If an id has no prediction.
        """
        return self.probabilities[rows_of(ids, self.ids, where=where)]

    def to_polars(self, *, names: bool = False) -> pl.DataFrame:
        """Return a table with the column ``id`` and one column of probabilities per location.

        Args:
            names: Name the columns by the locations' names instead of their keys.

        Returns:
            A polars table. If a decision was made, the column ``predicted`` lists the keys (or names) of the locations.
        """
        columns = self.label_set.names if names else self.label_set.keys
        table: dict[str, Any] = {"id": list(self.ids)}
        if self.decided is not None:
            table["predicted"] = [[columns[int(i)] for i in np.flatnonzero(row)] for row in self.decided]
        schema = {"predicted": pl.List(pl.String)} if self.decided is not None else {}
        table |= dict(zip(columns, self.probabilities.T, strict=True))
        return pl.DataFrame(table, schema_overrides=schema)

    def to_pandas(self, *, names: bool = False) -> pd.DataFrame:
        """Return what :meth:`to_polars` returns as a pandas table, with the ids as its index.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return to_pandas(self.to_polars(names=names)).set_index("id")


def to_pandas(table: pl.DataFrame) -> pd.DataFrame:
    """Return a polars table as a pandas table.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    try:
        import pandas  # noqa: F401  only to see whether it is there
    except ImportError as error:
        raise MissingExtraError("pandas is not installed.", hint="pip install pandas, or use to_polars().") from error
    return table.to_pandas()


def rows_of(wanted: Sequence[str], ids: Sequence[str], *, where: str) -> list[int]:
    """Return the row of each of the ``wanted`` ids among ``ids``, which have predictions.

    Raises:
        TableError: If one has no prediction.
    """
    position = {name: row for row, name in enumerate(ids)}
    missing = [name for name in wanted if name not in position]
    if missing:
        raise TableError(
            f"{where}: {len(missing)} of {len(wanted)} ids have no prediction, e.g. {', '.join(missing[:3])}.",
            hint="Predict those fields too, or ask for the ids that were predicted.",
        )
    return [position[name] for name in wanted]


def combine(parts: Sequence[Predictions]) -> Predictions:
    """Return one prediction per field from several tables: folds are joined, members of an ensemble averaged.

    Tables of the same fields are members; their plain mean is taken. Tables that share no field are folds.

    Raises:
        TableError: If two tables share some of their fields but not all, or folds differ in their number of members.
        LabelSetError: If tables have different label sets.
    """
    refuse_different({f"table {number}": part for number, part in enumerate(parts, start=1)})
    by_fields: dict[frozenset[str], list[Predictions]] = {}
    for part in parts:
        by_fields.setdefault(frozenset(part.ids), []).append(part)
    if len({len(members) for members in by_fields.values()}) > 1:
        raise TableError(
            "Some fields have more members than others.", hint="Give every member's predictions of every fold, once."
        )
    ids: list[str] = []
    rows = []
    for fields, members in by_fields.items():
        if not fields.isdisjoint(ids):
            raise TableError(
                "Two prediction tables share some of their fields but not all.",
                hint="Give tables of the same fields (they are averaged) or of different ones (they are joined).",
            )
        order = members[0].ids
        ids += order
        rows.append(np.mean([member.rows(order) for member in members], axis=0, dtype=np.float64))
    if not rows:
        raise TableError("There are no predictions.", hint="Give at least one table.")
    provenance = parts[0].provenance
    if len(parts) > 1:
        provenance = {"parts": [part.provenance for part in parts], **warnings_of(parts)}
    return Predictions(tuple(ids), np.concatenate(rows).astype(np.float32), parts[0].label_set, provenance)


def warnings_of(parts: Iterable[Predictions]) -> dict[str, Any]:
    """Return the cautions in the provenance of predictions, for the predictions that are made of them.

    Returns:
        ``fields_trained_on``, the most fields that one part was trained on; ``caution``, all cautions; ``absent``, all
        channels that were substituted; and ``converted``, if a part was converted from another label set. Keys that no
        part has are missing.
    """
    sources = [part.provenance for part in parts]
    seen = [each["fields_trained_on"] for each in sources if "fields_trained_on" in each]
    cautions = sorted({each["caution"] for each in sources if "caution" in each})
    absent = {name: what for each in sources for name, what in each.get("absent", {}).items()}
    converted = [each["converted"] for each in sources if "converted" in each]
    return {
        **({"absent": absent} if absent else {}),
        **({"converted": converted[0]} if converted else {}),
        **({"fields_trained_on": max(seen)} if seen else {}),
        **({"caution": " ".join(cautions)} if cautions else {}),
    }


class Joined(NamedTuple):
    """The predictions of several members of an ensemble, side by side.

    Attributes:
        ids: All fields that any member has.
        members: Each member's probabilities of them, ``(n, locations)``; a field that it lacks is a row of NaN.
        label_set: The locations of the columns.
    """

    ids: tuple[str, ...]
    members: dict[str, Float32Array]
    label_set: LabelSet


def join_members(members: Mapping[str, Predictions]) -> Joined:
    """Return the predictions of all members for all fields that any of them has.

    Raises:
        TableError: If there is no member, or one shares no field with the others.
        LabelSetError: If members have different label sets.
    """
    if not members:
        raise TableError("There are no predictions.", hint="Give at least one table.")
    label_set = refuse_different({f"the member {name!r}": predictions for name, predictions in members.items()})
    ids = tuple(dict.fromkeys(name for predictions in members.values() for name in predictions.ids))
    position = {name: row for row, name in enumerate(ids)}
    joined = {}
    for member, predictions in members.items():
        elsewhere = [set(other.ids) for name, other in members.items() if name != member]
        if elsewhere and set(predictions.ids).isdisjoint(set().union(*elsewhere)):
            raise TableError(
                f"The member {member!r} has none of the other members' {len(set().union(*elsewhere))} fields:"
                f" its ids are such as {predictions.ids[0]}.",
                hint="Give every member's predictions of the same fields, under the same ids.",
            )
        rows = np.full((len(ids), len(label_set)), np.nan, np.float32)
        rows[[position[name] for name in predictions.ids]] = predictions.probabilities
        joined[member] = rows
    return Joined(ids, joined, label_set)


def refuse_different(tables: Mapping[str, Predictions]) -> LabelSet:
    """Return the label set of all tables.

    Raises:
        TableError: If there is no table.
        LabelSetError: If two have different label sets.
    """
    if not tables:
        raise TableError("There are no predictions.", hint="Give at least one table.")
    (first, reference), *others = tables.items()
    for name, table in others:
        reference.label_set.refuse_other(table.label_set, what=name, than=first)
    return reference.label_set


def spelled(location: Location) -> str:
    """Return the key and the name of a location, for messages."""
    return f"{location.key} ({location.name})"
