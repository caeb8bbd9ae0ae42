"""Predictions: the probability of every location for every field, with their provenance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc._typing import BoolArray, Float32Array
from cytoloc.choices import near
from cytoloc.errors import MissingExtraError, SettingsError, TableError, UnknownIdError
from cytoloc.labels.ids import alike_note
from cytoloc.labels.label_set import LabelSet, Location
from cytoloc.labels.lists import refuse_repeated

if TYPE_CHECKING:
    import pandas as pd

CELL_COLUMNS: Final = {
    "field": pl.String(),
    "cell": pl.Int64(),
    "x": pl.Float32(),
    "y": pl.Float32(),
    "area": pl.Int64(),
}
"""What predictions of cells say of each cell: its field, its number there, its position and area in pixels."""

ROUNDING: Final = 1e-3
"""Excess over 1 that rounding to 16 bits can cause."""


class FieldPrediction(NamedTuple):
    """The prediction for one field.

    Attributes:
        id: The id of the field.
        probabilities: The probability of each location, by the location's name, the highest first.
        locations: The decided locations; None if no decision was applied.
        caution: What is unusual in the image of the field; empty if nothing is.
    """

    id: str
    probabilities: dict[str, float]
    locations: tuple[Location, ...] | None
    caution: str = ""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.2f}" for name, value in list(self.probabilities.items())[:3])
        decided = (
            "" if self.locations is None else f"; located in {', '.join(x.name for x in self.locations) or 'none'}"
        )
        return f"<{self.id}: {shown}{decided}{f'; caution: {self.caution}' * bool(self.caution)}>"


@dataclass(frozen=True, repr=False)
class Predictions:
    """Probabilities of every location for a list of fields, and optionally the decided locations.

    Attributes:
        ids: The id of each field. Ids are unique.
        probabilities: Probabilities, float32 of shape ``(n, locations)``.
        label_set: The locations of the columns.
        provenance: How the predictions were made, such as the model and the data. JSON values only.
        decided: The decided locations of each field, bool of shape ``(n, locations)``. None if no decision was applied.
        rejected: The reason why a field could not be read, by id.
        cautions: What is unusual in the image of each field, an empty text if nothing is. Empty if images were not
            checked. A field with a caution has no decided locations, unless they were asked for.
        cells: If the rows are cells, a table with the columns ``field``, ``cell``, ``x``, ``y`` and ``area``, in the
            order of ``ids``. None if the rows are fields.

    Raises:
        TableError: If shapes do not match, an id occurs twice, there are no fields, or a value is not a probability.

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
    cautions: tuple[str, ...] = ()
    cells: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.label_set))
        if self.cautions and len(self.cautions) != len(self.ids):
            raise TableError(f"`cautions` has {len(self.cautions)} texts for {len(self.ids)} fields.")
        if self.cells is not None and (self.cells.height, self.cells.schema) != (len(self.ids), CELL_COLUMNS):
            raise TableError(
                f"`cells` must have {len(self.ids)} rows and the columns {', '.join(CELL_COLUMNS)}, but has"
                f" {self.cells.height} rows and {', '.join(self.cells.columns)}."
            )
        for name, array in (("probabilities", self.probabilities), ("decided", self.decided)):
            if array is not None and array.shape != shape:
                raise TableError(
                    f"`{name}` has the shape {array.shape}, but {shape[0]} fields and the label set {self.label_set}"
                    f" need the shape {shape}."
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
                    f"{where}: the value is NaN {many}.", hint="Predict these fields again, or remove their rows."
                )
            percent = self.probabilities.min() >= 0 and 10 < self.probabilities.max() <= 100
            how = (
                "Divide percentages by 100" if percent else "Convert logits with a sigmoid first: 1 / (1 + exp(-logit))"
            )
            raise TableError(
                f"{where}: {value:g} is not a probability {many}.", hint=f"Give values from 0 to 1. {how}."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        made = ", decided" if self.decided is not None else ""
        bad = f", {len(self.rejected)} rejected" if self.rejected else ""
        odd = f", {self.n_cautions} with a caution" if self.n_cautions else ""
        fields = f"{len(self)} {'field' if self.cells is None else 'cell'}{'s' * (len(self) != 1)}"
        return f"Predictions({fields}, {len(self.label_set)} locations of {self.label_set.name}{made}{bad}{odd})"

    @overload
    def __getitem__(self, key: int | str) -> FieldPrediction: ...

    @overload
    def __getitem__(self, key: slice | list[int] | list[str] | NDArray[Any]) -> Predictions: ...

    def __getitem__(
        self, key: int | str | slice | list[int] | list[str] | NDArray[Any]
    ) -> FieldPrediction | Predictions:
        """Return the prediction for one field, or the predictions for several fields.

        Args:
            key: The position or id of one field; or a slice, list of positions, list of ids, or boolean mask.

        Raises:
            IndexError: If a position is out of range.
            UnknownIdError: If an id has no prediction.
        """
        if isinstance(key, str):
            return self._field(self._row(key))
        if isinstance(key, int | np.integer):
            if not -len(self) <= key < len(self):
                raise IndexError(f"The position {key} is out of range for {len(self)} predictions.")
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
            cautions=tuple(self.cautions[row] for row in rows) if self.cautions else (),
            cells=None if self.cells is None else self.cells[rows.tolist()],
        )

    def __contains__(self, name: object) -> bool:
        """Return whether a field, given by its id, has a prediction."""
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
        locations = None if self.decided is None else self._locations(row)
        return FieldPrediction(self.ids[row], values, locations, self.cautions[row] if self.cautions else "")

    def _locations(self, row: int) -> tuple[Location, ...]:
        assert self.decided is not None  # noqa: S101  our own mistake
        return tuple(self.label_set[int(i)] for i in np.flatnonzero(self.decided[row]))

    @property
    def locations(self) -> list[tuple[Location, ...]]:
        """The decided locations of each field, in the order of ``ids``.

        Raises:
            SettingsError: If no decision was applied.
        """
        if self.decided is None:
            raise SettingsError(
                "The predictions contain probabilities only, because no decision was applied.",
                hint="Apply a decision: cytoloc.fit_decision(…)(predictions); or use a bundle that contains one.",
            )
        return [self._locations(row) for row in range(len(self))]

    @property
    def n_cautions(self) -> int:
        """The number of fields with a caution."""
        return sum(map(bool, self.cautions))

    @property
    def caution(self) -> str:
        """The caution that the authors of the model give; empty if there is none."""
        return str(self.provenance.get("caution", ""))

    def rows(self, ids: Sequence[str], *, where: str = "predictions") -> Float32Array:
        """Return the probabilities of some fields.

        Args:
            ids: The ids of the fields.
            where: The origin of the predictions, for error messages.

        Returns:
            float32 of shape ``(len(ids), locations)``, in the order of ``ids``.

        Raises:
            TableError: If an id has no prediction.
        """
        return self.probabilities[rows_of(ids, self.ids, where=where)]

    def to_polars(self, *, names: bool = False) -> pl.DataFrame:
        """Return a polars table with a column ``id`` and one column of probabilities per location.

        Args:
            names: Name the columns by the names of the locations instead of their keys.

        Returns:
            A table with one row per field; for cells, with the columns of ``cells``. If a decision was applied, the
            column ``predicted`` lists the keys (or names) of the decided locations. If images were checked, the column
            ``caution`` says what is unusual.
        """
        columns = self.label_set.names if names else self.label_set.keys
        table: dict[str, Any] = {"id": list(self.ids)}
        if self.cells is not None:
            table |= self.cells.to_dict()
        if self.decided is not None:
            table["predicted"] = [[columns[int(i)] for i in np.flatnonzero(row)] for row in self.decided]
        if self.cautions:
            table["caution"] = list(self.cautions)
        schema = {"predicted": pl.List(pl.String)} if self.decided is not None else {}
        table |= dict(zip(columns, self.probabilities.T, strict=True))
        return pl.DataFrame(table, schema_overrides=schema)

    def to_pandas(self, *, names: bool = False) -> pd.DataFrame:
        """Return a pandas table with the ids as index, and one column of probabilities per location.

        Args:
            names: Name the columns by the names of the locations instead of their keys.

        Returns:
            The table of :meth:`to_polars`, for pandas.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return to_pandas(self.to_polars(names=names)).set_index("id")


def to_pandas(table: pl.DataFrame) -> pd.DataFrame:
    """Convert a polars table to pandas.

    Args:
        table: The polars table.

    Returns:
        The same table for pandas.

    Raises:
        MissingExtraError: If pandas is not installed.
    """
    try:
        import pandas  # noqa: F401  only to see whether it is there
    except ImportError as error:
        raise MissingExtraError(
            "The library pandas is not installed.", hint="Run pip install pandas, or use to_polars()."
        ) from error
    return table.to_pandas()


def rows_of(wanted: Sequence[str], ids: Sequence[str], *, where: str) -> list[int]:
    """Return the row of each wanted id.

    Args:
        wanted: The ids to find.
        ids: The ids of all rows.
        where: The origin of the rows, for error messages.

    Returns:
        One row number per wanted id.

    Raises:
        TableError: If an id has no row.
    """
    position = {name: row for row, name in enumerate(ids)}
    missing = [name for name in wanted if name not in position]
    if missing:
        raise TableError(
            f"{where}: {len(missing)} of {len(wanted)} ids have no prediction, e.g. {', '.join(missing[:3])}."
            f"{alike_note(missing, ids)}",
            hint="Predict these fields too, or request only ids that were predicted.",
        )
    return [position[name] for name in wanted]


def combine(parts: Sequence[Predictions]) -> Predictions:
    """Combine several prediction tables into one prediction per field.

    Tables that share no field are joined, as for the folds of a cross-validation. Tables of the same fields are
    averaged, as for the members of an ensemble.

    Args:
        parts: The tables.

    Returns:
        The combined predictions.

    Raises:
        TableError: If two tables share only some of their fields, or folds have different numbers of members.
        LabelSetError: If the tables have different label sets.
    """
    refuse_different({f"table {number}": part for number, part in enumerate(parts, start=1)})
    by_fields: dict[frozenset[str], list[Predictions]] = {}
    for part in parts:
        by_fields.setdefault(frozenset(part.ids), []).append(part)
    if len({len(members) for members in by_fields.values()}) > 1:
        raise TableError(
            "Some fields have predictions of more members than others.",
            hint="Give the predictions of every member for every fold, once.",
        )
    ids: list[str] = []
    rows = []
    cautions: dict[str, str] = {}
    for part in parts:
        cautions |= {name: text for name, text in zip(part.ids, part.cautions, strict=False) if text}
    for fields, members in by_fields.items():
        if not fields.isdisjoint(ids):
            shared = sum(name in fields for name in ids)
            raise TableError(
                f"Two prediction tables share only some of their fields: {shared} of {len(fields)} and"
                f" {len(ids)}.{alike_note(members[0].ids, ids)}",
                hint="Give tables of the same fields, which are averaged, or of different fields, which are joined.",
            )
        order = members[0].ids
        ids += order
        rows.append(np.mean([member.rows(order) for member in members], axis=0, dtype=np.float64))
    if not rows:
        raise TableError("No predictions were given.", hint="Give at least one table.")
    provenance = parts[0].provenance
    if len(parts) > 1:
        provenance = {"parts": [part.provenance for part in parts], **warnings_of(parts)}
        # Fields of different tables add up. Tables of the same fields are members of an ensemble.
        each = [warnings_of(members) for members in by_fields.values()]
        for key in ("fields_trained_on", "fields_maybe_trained_on"):
            if key in provenance:
                provenance[key] = sum(group.get(key, 0) for group in each)
        for key in ("knowledge", "thresholds"):
            values = [part.provenance.get(key) for part in parts]
            if values[0] and all(value == values[0] for value in values):
                provenance[key] = values[0]
    return Predictions(
        tuple(ids),
        np.concatenate(rows).astype(np.float32),
        parts[0].label_set,
        provenance,
        rejected={name: why for part in parts for name, why in part.rejected.items()},
        cautions=tuple(cautions.get(name, "") for name in ids) if any(part.cautions for part in parts) else (),
        cells=cells_of(parts, ids),
    )


def cells_of(parts: Iterable[Predictions], ids: Sequence[str]) -> pl.DataFrame | None:
    """Return the table of the cells with some ids, from predictions of cells; None unless all of them are cells."""
    tables = [pl.DataFrame({"id": list(part.ids)}).hstack(part.cells) for part in parts if part.cells is not None]
    if not tables:
        return None
    known = pl.concat(tables).unique("id")
    found = pl.DataFrame({"id": list(ids)}).join(known, on="id", how="left", maintain_order="left").drop("id")
    return None if found["cell"].null_count() else found


def text_categories(values: Sequence[str]) -> pd.Categorical:
    """Return texts as categories, in a form that anndata can write with any pandas.

    Args:
        values: The texts.

    Returns:
        The categories, sorted. anndata would make Arrow strings of other texts, which it cannot write.
    """
    import pandas as pd

    return pd.Categorical(values, categories=pd.Index(sorted(set(values)), dtype=object))


def decided_locations(predictions: Predictions) -> BoolArray | None:
    """Return the locations of fields by the decision of the model, as far as the predictions state it.

    A predictions file keeps the thresholds of the model, but not the decided locations.

    Args:
        predictions: The predictions.

    Returns:
        bool of shape ``(n, locations)``; a field with a caution has no location. None if no decision was applied.
    """
    thresholds: Mapping[str, float] = predictions.provenance.get("thresholds", {})
    if predictions.decided is not None or not thresholds:
        return predictions.decided
    limits = np.array([thresholds.get(key, 1.0) for key in predictions.label_set.keys])
    decided = np.asarray(predictions.probabilities > limits, np.bool_)
    if predictions.cautions:
        decided[np.array([bool(text) for text in predictions.cautions])] = False
    return decided


def warnings_of(parts: Iterable[Predictions]) -> dict[str, Any]:
    """Return the cautions in the provenance of several predictions, for the predictions that combine them.

    Args:
        parts: The predictions.

    Returns:
        The following keys, if any part has them. ``fields_trained_on``: the largest number of fields that a model was
        trained on. ``trained_on_datasets``: all public datasets that models were trained on as a whole.
        ``fields_maybe_trained_on``: the largest number of fields that may be in them. ``caution``: all cautions.
        ``absent``: all substituted channels. ``converted``: the first conversion from another label set.
    """
    sources = [part.provenance for part in parts]
    seen = [each["fields_trained_on"] for each in sources if "fields_trained_on" in each]
    cautions = sorted({each["caution"] for each in sources if "caution" in each})
    absent = {name: what for each in sources for name, what in each.get("absent", {}).items()}
    datasets = dict.fromkeys(name for each in sources for name in each.get("trained_on_datasets", ()))
    maybe = [each["fields_maybe_trained_on"] for each in sources if "fields_maybe_trained_on" in each]
    unknown = any("fields_maybe_trained_on" not in each for each in sources if "trained_on_datasets" in each)
    converted = [each["converted"] for each in sources if "converted" in each]
    return {
        **({"absent": absent} if absent else {}),
        **({"converted": converted[0]} if converted else {}),
        **({"fields_trained_on": max(seen)} if seen else {}),
        **({"trained_on_datasets": list(datasets)} if datasets else {}),
        **({"fields_maybe_trained_on": max(maybe)} if maybe and not unknown else {}),
        **({"caution": " ".join(cautions)} if cautions else {}),
    }


def training_caution(predictions: Predictions) -> str:
    """Return a caution if a model was trained on whole public datasets that fields may be in.

    Args:
        predictions: The predictions.

    Returns:
        One sentence or two; empty if no field can be in them.
    """
    datasets = predictions.provenance.get("trained_on_datasets", ())
    maybe = predictions.provenance.get("fields_maybe_trained_on")
    if not datasets or maybe == 0:
        return ""
    which = f"{maybe} of these {len(predictions)} fields" if maybe else "Some of these fields"
    return (
        f"The model was trained on all of {' and '.join(datasets)}. {which} may be among them, so metrics that include"
        " them are too high."
    )


def refuse_different(tables: Mapping[str, Predictions]) -> LabelSet:
    """Return the label set that all tables share.

    Args:
        tables: The predictions, by a name for error messages.

    Returns:
        The common label set.

    Raises:
        TableError: If there is no table.
        LabelSetError: If two tables have different label sets.
    """
    if not tables:
        raise TableError("No predictions were given.", hint="Give at least one table.")
    (first, reference), *others = tables.items()
    for name, table in others:
        reference.label_set.refuse_other(table.label_set, what=name, than=first)
    return reference.label_set


def spelled(location: Location) -> str:
    """Return a location as text for messages: its key and name."""
    return f"{location.key} ({location.name})"
