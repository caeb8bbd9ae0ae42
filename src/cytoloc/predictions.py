"""Score tables: one probability per field and location, and where they come from.

A predictions file is Parquet with a column ``id`` and one float32 column per location, named by its key; its schema
metadata holds the format, its version, the label set and the provenance. CSV (ids, and a column per location by key or
name) and NumPy arrays with a list of ids are read too, so that other people's predictions can be decided and scored.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from lzma import LZMAError
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.errors import FormatError, LabelSetError, SettingsError, TableError, first_line
from cytoloc.files import check_format, existing, new_file
from cytoloc.labels import SHIPPED, LabelSet, Location, find_label_set
from cytoloc.lists import location_columns, read_csv, read_ids, refuse_repeated, require_columns

KIND: Final = "cytoloc-predictions"
VERSION: Final = 1

_AGAIN: Final = "Write it again with the command that made it."
_GIVE_LABEL_SET: Final = (
    f"Name it: --label-set with one of {', '.join(SHIPPED)} or a .csv or .toml file; in Python, label_set=…."
)


@dataclass(frozen=True)
class Predictions:
    """Probabilities of every location for a list of fields.

    Attributes:
        ids: The id of each field; no id occurs twice.
        probabilities: float32 ``(n, locations)``, values from 0 to 1.
        label_set: The locations of the columns.
        provenance: What made them: model, data, views; JSON values only.
    """

    ids: tuple[str, ...]
    probabilities: NDArray[np.float32]
    label_set: LabelSet
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.ids), len(self.label_set))
        if self.probabilities.shape != shape:
            raise TableError(
                f"Predictions of {shape[0]} fields and the label set {self.label_set} must have shape {shape}, not"
                f" {self.probabilities.shape}."
            )
        refuse_repeated(self.ids, where="predictions")
        if self.probabilities.size == 0:
            raise TableError("The predictions have no rows.", hint="Give the predictions of at least one field.")
        _refuse_non_probabilities(self.ids, self.probabilities, self.label_set)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str], *, where: str = "predictions") -> NDArray[np.float32]:
        """Return the probabilities of ``ids``, in that order.

        Raises:
            TableError: If an id has no score.
        """
        return self.probabilities[rows_of(ids, self.ids, where=where)]


def rows_of(wanted: Sequence[str], ids: Sequence[str], *, where: str) -> list[int]:
    """Return where each of the ``wanted`` ids stands among ``ids``, those that were scored.

    Raises:
        TableError: If one has no score.
    """
    position = {name: row for row, name in enumerate(ids)}
    missing = [name for name in wanted if name not in position]
    if missing:
        raise TableError(
            f"{where}: {len(missing)} of {len(wanted)} ids have no score, e.g. {', '.join(missing[:3])}.",
            hint="Predict those fields too, or ask for the ids that were predicted.",
        )
    return [position[name] for name in wanted]


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write ``predictions`` as Parquet to a path that must be free."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array(predictions.ids, pa.string())]
    columns += [pa.array(values, pa.float32()) for values in predictions.probabilities.T]
    label_set = predictions.label_set.to_json()
    header = {"format": KIND, "version": VERSION, "label_set": label_set, "provenance": predictions.provenance}
    table = pa.table(columns, names=["id", *predictions.label_set.keys]).replace_schema_metadata(
        {"cytoloc": json.dumps(header)}
    )
    with new_file(Path(path)) as temporary:
        pq.write_table(table, temporary)


def check_predictions_path(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` unless a predictions file may have this name."""
    if path.suffix != ".parquet":
        raise SettingsError(f"{path}: predictions are written as Parquet.", hint="Choose a name that ends in .parquet.")


def read_predictions(
    path: str | Path, *, ids: str | Path | None = None, label_set: LabelSet | None = None
) -> Predictions:
    """Return the predictions in a Parquet, CSV, ``.npy`` or ``.npz`` file.

    Args:
        path: The file. A CSV has a column ``Id`` (or ``id``, ``ID``) and one column per location, by key or name, in
            any order. An ``.npz`` must hold one array, or one named ``probabilities``.
        ids: For NumPy files, a CSV with a column ``Id``, or a text file with one id a line, in row order.
        label_set: The locations of the columns. A Parquet file states its own, which must match. Without it, a CSV has
            the shipped label set whose keys or names its columns are, and a NumPy array has hpa28 if it has that
            many columns.

    Raises:
        TableError: If columns are missing, ids repeat, values are no probabilities, or the label set is not known.
        LabelSetError: If the file states another label set than ``label_set``.
        FormatError: If a Parquet file is not a predictions file of this version.
    """
    path = existing(Path(path))
    if path.suffix == ".parquet":
        predictions = _read_parquet(path)
        if label_set is not None:
            label_set.refuse_other(predictions.label_set, what=str(path), than="the argument label_set")
        return predictions
    if path.suffix == ".csv":
        return _read_csv(path, label_set)
    if path.suffix in {".npy", ".npz"}:
        if ids is None:
            raise TableError(f"{path} holds no ids.", hint="Give them with --ids FILE, one per row.")
        array = _read_numpy(path)
        if array.dtype.kind not in "fiub":
            raise TableError(f"{path} holds {array.dtype} values, not numbers.")
        usual = LabelSet.hpa28()
        if label_set is None and array.ndim == 2 and array.shape[1] != len(usual):
            raise TableError(f"{path} has {array.shape[1]} columns, and no label set is given.", hint=_GIVE_LABEL_SET)
        names, locations = read_ids(ids), label_set or usual
        if array.shape != (len(names), len(locations)):
            raise TableError(
                f"{path} has the shape {array.shape}; {ids} lists {len(names)} ids and the label set is {locations}, so"
                f" it must be {(len(names), len(locations))}.",
                hint="Give one row per id and one column per location of the label set, in its order.",
            )
        return _scores_in(path, names, array.astype(np.float32), locations, {"file": path.name})
    raise TableError(
        f"{path}: predictions cannot be read from {path.suffix!r}.", hint="Give .parquet, .csv, .npy or .npz."
    )


def combine(parts: Sequence[Predictions]) -> Predictions:
    """Return one score per field from several tables: folds are joined, members of an ensemble averaged.

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
    """Return what the provenance of predictions made of ``parts`` must say too: of whatever was wrong with one of them.

    Returns:
        ``fields_trained_on``, the most fields that one has seen in training, for what is made of predictions that are
        too
        good to be true is so itself; ``caution``, every word of it; ``absent``, all channels that were substituted; and
        ``converted``, if the first part was converted from another label set. Nothing where none says anything.
    """
    said = [part.provenance for part in parts]
    seen = [each["fields_trained_on"] for each in said if "fields_trained_on" in each]
    cautions = sorted({each["caution"] for each in said if "caution" in each})
    absent = {name: what for each in said for name, what in each.get("absent", {}).items()}
    converted = [each["converted"] for each in said if "converted" in each]
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
    members: dict[str, NDArray[np.float32]]
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

    Args:
        tables: By their names, such as ``the member 'a'``.

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


def _read_csv(path: Path, label_set: LabelSet | None) -> Predictions:
    table = read_csv(path)
    require_columns(table, ["Id"], path)
    columns = [name for name in table.columns if name != "Id"]
    locations = label_set or _label_set_of(columns, path)
    indices = location_columns(columns, locations, path)
    missing = [location for index, location in enumerate(locations) if index not in indices]
    if missing:
        shown = ", ".join(map(_said, missing[:3]))
        raise TableError(
            f"{path} lacks {len(missing)} of the locations of the label set {locations}, such as {shown}.",
            hint="Give one column per location, by key or name.",
        )
    ordered = [columns[indices.index(index)] for index in range(len(locations))]
    values = table.select(pl.col(ordered).cast(pl.Float32, strict=False)).fill_null(np.nan).to_numpy()
    return _scores_in(path, table["Id"].to_list(), values, locations, {"file": path.name})


def _label_set_of(columns: Sequence[str], path: Path) -> LabelSet:
    """Return the shipped label set whose keys, or whose names, are the columns of a CSV."""
    have = {name.strip().casefold() for name in columns}
    shipped = [find_label_set(name) for name in SHIPPED]
    for label_set in shipped:
        if have in ({key.casefold() for key in label_set.keys}, {name.casefold() for name in label_set.names}):
            return label_set
    raise TableError(
        f"{path} has the columns {', '.join(columns)[:200]}; these are not the locations of one shipped label set.",
        hint=_GIVE_LABEL_SET,
    )


def _said(location: Location) -> str:
    return f"{location.key} ({location.name})"


def _read_parquet(path: Path) -> Predictions:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(
            f"{path} cannot be read as Parquet: {first_line(error).rstrip('.')}.",
            hint="Give a predictions file that cytoloc wrote, or predictions as CSV or NumPy files.",
        ) from error
    header = (table.schema.metadata or {}).get(b"cytoloc", b"{}")
    try:
        header = json.loads(header)
    except ValueError as error:
        raise FormatError(f"{path} is damaged: its provenance is not JSON.", hint=_AGAIN) from error
    check_format(header if isinstance(header, dict) else {}, where=path, kind=KIND, version=VERSION)
    said = header.get("provenance")
    fitting = isinstance(said, dict) and type(said.get("fields_trained_on", 0)) is int
    try:
        label_set = LabelSet.from_json(header.get("label_set"))
    except LabelSetError as error:
        raise FormatError(f"{path} is damaged: {error.message}", hint=_AGAIN) from error
    expected = pa.schema([pa.field("id", pa.string()), *(pa.field(key, pa.float32()) for key in label_set.keys)])
    if table.schema.names != expected.names or not fitting:
        raise FormatError(f"{path} is damaged: it lacks columns or its provenance.", hint=_AGAIN)
    try:
        table = table.cast(expected)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FormatError(f"{path} is damaged: {first_line(error).rstrip('.')}.", hint=_AGAIN) from error
    if table["id"].null_count:
        raise FormatError(f"{path} is damaged: a field has no id.", hint=_AGAIN)
    probabilities = np.stack([table[key].to_numpy() for key in label_set.keys], axis=1)
    return _scores_in(path, table["id"].to_pylist(), probabilities, label_set, said)


def _scores_in(
    path: Path, ids: Sequence[str], values: NDArray[np.float32], label_set: LabelSet, provenance: dict[str, Any]
) -> Predictions:
    """Return the predictions that a file holds; what is wrong with them names the file."""
    try:
        return Predictions(tuple(ids), values, label_set, provenance)
    except TableError as error:
        raise TableError(f"{path}: {error.message}", hint=error.hint) from error


def _read_numpy(path: Path) -> NDArray[Any]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        names = list(loaded.files)
        if "probabilities" not in names and len(names) != 1:
            raise TableError(
                f"{path} holds the arrays {', '.join(names)}." if names else f"{path} holds no array.",
                hint="Give one array, or name one of them 'probabilities'.",
            )
        array: NDArray[Any] = loaded["probabilities" if "probabilities" in names else names[0]]
    # Archives are broken in many ways, and each of their libraries has an error of its own.
    except (
        ValueError,
        OSError,
        EOFError,
        RuntimeError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
        LZMAError,
    ) as error:
        raise TableError(
            f"{path} cannot be read as a NumPy file of numbers: {error}.", hint="Save it again with numpy.save."
        ) from error
    if not isinstance(array, np.ndarray):
        raise TableError(f"{path} holds no array.", hint="Save it again with numpy.save.")
    return array


def _refuse_non_probabilities(ids: Sequence[str], values: NDArray[np.float32], label_set: LabelSet) -> None:
    bad = ~((values >= 0) & (values <= 1))
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        where, many = f"Field {ids[row]}, location {_said(label_set[column])}", f"({int(bad.sum())} such values)"
        if np.isnan(values[row, column]):
            raise TableError(
                f"{where}: there is no number (NaN) {many}.",
                hint="Predict these fields again, or leave out their rows.",
            )
        raise TableError(
            f"{where}: {values[row, column]:g} is not a probability {many}.",
            hint="Give values from 0 to 1; logits need a sigmoid first: 1 / (1 + exp(-logit)).",
        )
