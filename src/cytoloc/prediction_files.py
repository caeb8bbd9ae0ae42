"""Reading and writing of prediction files.

A predictions file is a Parquet file with a column ``id`` and one float32 column per location, named by its key. If the
images were checked, the column ``caution`` says what is unusual in the image of a field. The schema metadata contains
the format, its version, the label set and the provenance. CSV files (with one column per location, by key or name) and
NumPy arrays (with a separate list of ids) can be read too.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from lzma import LZMAError
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc._typing import Float32Array
from cytoloc.choices import check_type
from cytoloc.errors import ArgumentTypeError, FormatError, LabelSetError, SettingsError, TableError, first_line
from cytoloc.files import FileFormat, check_format, existing, new_file, read_json, refuse_given_twice
from cytoloc.labels.label_set import SHIPPED, LabelSet, as_label_set, find_label_set
from cytoloc.labels.lists import location_columns, read_csv, read_ids, require_columns
from cytoloc.predictions import CELL_COLUMNS, ROUNDING, Predictions, combine, spelled
from cytoloc.runs import PREDICTIONS, find_runs, refuse_unfinished

PREDICTIONS_FORMAT: Final = FileFormat("cytoloc-predictions", 1, "predictions file of `cytoloc predict`")

PARTS_FORMAT: Final = FileFormat("cytoloc-prediction-parts", 1, "folder of `cytoloc predict`")
MANIFEST: Final = "predictions.json"
"""The file of a folder of parts that states the model, the fields and the number of parts."""

CAUTION: Final = "caution"
"""The column that says what is unusual in the image of a field."""

_AGAIN: Final = "Write the file again with the command that made it."
_GIVE_LABEL_SET: Final = f"Give `label_set`: one of {', '.join(SHIPPED)}, or a .csv or .toml file."


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write predictions to a new Parquet file.

    Args:
        predictions: The predictions.
        path: The new file, which must end in ``.parquet``.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the name does not end in ``.parquet``.
        OutputExistsError: If the file exists.
    """
    check_type(predictions, Predictions, argument="predictions")
    check_type(path, (str, Path), argument="path")
    check_predictions_path(Path(path))
    with new_file(Path(path)) as temporary:
        temporary.write_bytes(predictions_bytes(predictions))


def predictions_bytes(predictions: Predictions) -> bytes:
    """Return predictions as the content of a Parquet file."""
    return parquet_bytes(
        predictions.ids,
        predictions.probabilities,
        predictions.label_set,
        predictions.provenance,
        cautions=predictions.cautions,
        rejected=predictions.rejected,
        cells=predictions.cells,
    )


def parquet_bytes(
    ids: Sequence[str],
    probabilities: Float32Array,
    label_set: LabelSet,
    provenance: dict[str, Any],
    *,
    cautions: Sequence[str] = (),
    rejected: Mapping[str, str],
    cells: pl.DataFrame | None = None,
) -> bytes:
    """Return the content of a Parquet file of predictions, which can have no rows.

    Args:
        ids: The ids of the fields.
        probabilities: float32 of shape ``(n, locations)``.
        label_set: The locations of the columns.
        provenance: How the predictions were made.
        cautions: What is unusual in each field; empty if images were not checked.
        rejected: The reason why a field could not be read, by id.
        cells: The table of cells, if the rows are cells; see :class:`~cytoloc.predictions.Predictions`.

    Returns:
        The content.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [pa.array(ids, pa.string())]
    columns += [pa.array(values, pa.float32()) for values in probabilities.T]
    names = ["id", *label_set.keys]
    if cautions:
        columns.append(pa.array(cautions, pa.string()))
        names.append(CAUTION)
    if cells is not None:
        columns += [pa.array(cells[name].to_list(), kind) for name, kind in _cell_types().items()]
        names += list(CELL_COLUMNS)
    header = {
        **PREDICTIONS_FORMAT.header,
        "label_set": label_set.to_json(),
        "provenance": provenance,
        "rejected": list(rejected.items()),
        "marked": sum(map(bool, cautions)),
    }
    table = pa.table(columns, names=names).replace_schema_metadata({"cytoloc": json.dumps(header)})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _cell_types() -> dict[str, Any]:
    """Return the Arrow type of each column of the table of cells."""
    import pyarrow as pa

    return {"field": pa.string(), "cell": pa.int64(), "x": pa.float32(), "y": pa.float32(), "area": pa.int64()}


def check_predictions_path(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if a predictions file cannot have this name."""
    if path.suffix != ".parquet":
        raise SettingsError(
            f"{path} is not a valid name for a predictions file, which is written as Parquet.",
            hint="Choose a name that ends in .parquet.",
        )


def read_predictions(
    path: str | Path | Sequence[str | Path], *, ids: str | Path | None = None, label_set: LabelSet | str | None = None
) -> Predictions:
    """Read predictions from files, or the out-of-fold predictions of runs.

    Args:
        path: A file, a folder of parts, a run, or a folder of runs; or a list of them. Predictions of different fields
            are joined; predictions of the same fields are averaged. A CSV file has a column ``Id`` and one column per
            location, by key or name. An ``.npz`` file must contain one array, or one named ``probabilities``.
        ids: The ids of the rows of NumPy files: a CSV file with a column ``Id``, or a text file with one id per line.
        label_set: The locations of the columns: a label set, its name, or its file. A Parquet file states its own
            label set, which must match. Default for a CSV file: the shipped label set with these keys or names.
            Default for a NumPy array with 28 columns: hpa28.

    Returns:
        The predictions.

    Raises:
        ArgumentTypeError: If ``path`` is not a path or a list of paths.
        TableError: If columns are missing, ids repeat, values are not probabilities, or the label set is unknown.
        LabelSetError: If the label set of a file is not ``label_set``, or files have different label sets.
        FormatError: If a Parquet file is not a predictions file of this version, or a run is not finished.
    """
    chosen = None if label_set is None else as_label_set(label_set)
    several = [path] if isinstance(path, str | Path) else path
    if not isinstance(several, Sequence) or not all(isinstance(one, str | Path) for one in several):
        raise ArgumentTypeError(f"`path` must be a path or a list of paths, not {type(path).__name__}.")
    files = prediction_files([Path(one) for one in several])
    parts = [read_predictions_file(file, ids=ids, label_set=chosen) for file in files]
    return parts[0] if len(parts) == 1 else combine(parts)


def prediction_files(paths: Sequence[Path]) -> list[Path]:
    """Return the prediction files that paths stand for.

    Args:
        paths: Files, folders of parts, and folders of runs. A folder of runs stands for the out-of-fold predictions of
            all its runs.

    Returns:
        The prediction files.

    Raises:
        FormatError: If a folder contains no run, or an unfinished one.
        SettingsError: If a file is given twice.
    """
    files = []
    for path in paths:
        if (path / MANIFEST).is_file():
            import pyarrow.parquet as pq

            count = read_json(path / MANIFEST, PARTS_FORMAT)["parts"]
            parts = [path / part_name(number) for number in range(count)]
            missing = [part for part in parts if not part.is_file()]
            if missing:
                raise FormatError(
                    f"{path} is not finished: {len(missing)} of {count} parts are missing, such as {missing[0].name}.",
                    hint="Rerun the command that writes it, with each shard.",
                )
            # Parts without fields are left out.
            files += [part for part in parts if pq.read_metadata(part).num_rows]
        elif path.is_dir():
            runs = find_runs([path])
            refuse_unfinished(runs)
            files += [run / PREDICTIONS for run in runs]
        else:
            files.append(path)
    refuse_given_twice(files)
    return files


def part_name(number: int) -> str:
    """Return the name of a part in a folder of parts."""
    return f"part-{number:05}.parquet"


def read_predictions_file(
    path: Path, *, ids: str | Path | None = None, label_set: LabelSet | None = None
) -> Predictions:
    """Read the predictions of one file.

    Args:
        path: The file.
        ids: The ids of the rows of a NumPy file; see :func:`read_predictions`.
        label_set: The locations of the columns; see :func:`read_predictions`.

    Returns:
        The predictions.
    """
    path = existing(path)
    if path.suffix == ".parquet":
        predictions = read_parquet_predictions(path)
        if label_set is not None:
            label_set.refuse_other(predictions.label_set, what=str(path), than="`label_set`")
        return predictions
    if path.name.lower().endswith((".csv", ".csv.gz", ".tsv")):
        table = read_csv(path)
        require_columns(table, ["Id"], path)
        columns = [name for name in table.columns if name != "Id"]
        if columns == ["Predicted"]:
            raise TableError(
                f"{path} has locations, not probabilities.",
                hint="Give the predictions that the locations were decided from.",
            )
        label_set = label_set or _shipped_label_set(columns, path)
        locations = label_set
        indices = location_columns(columns, locations, path)
        missing = [location for index, location in enumerate(locations) if index not in indices]
        if missing:
            shown = ", ".join(map(spelled, missing[:3]))
            raise TableError(
                f"{path} lacks columns for {len(missing)} locations of the label set {locations}, such as {shown}.",
                hint="Give one column per location, named by key or name.",
            )
        ordered = [columns[indices.index(index)] for index in range(len(locations))]
        # Spreadsheet programs of some countries write 0,5.
        cells = pl.col(ordered).str.strip_chars().str.replace(",", ".", literal=True)
        values = table.select(cells.cast(pl.Float32, strict=False)).fill_null(np.nan).to_numpy()
        return _predictions_in(path, table["Id"].to_list(), values, locations, {"file": path.name})
    if path.suffix in {".npy", ".npz"}:
        if ids is None:
            raise TableError(f"{path} contains no ids.", hint="Give `ids`, a file with one id per row.")
        array = read_array(path)
        if array.dtype.kind not in "fiub":
            raise TableError(
                f"{path} contains values of type {array.dtype}, which are not numbers.",
                hint="Save an array of probabilities.",
            )
        usual = LabelSet.hpa28()
        if label_set is None and array.ndim == 2 and array.shape[1] != len(usual):
            raise TableError(
                f"{path} has {array.shape[1]} columns, and their label set is unknown.", hint=_GIVE_LABEL_SET
            )
        names, locations = read_ids(ids), label_set or usual
        if array.shape != (len(names), len(locations)):
            raise TableError(
                f"{path} has the shape {array.shape}, but {len(names)} ids in {ids} and the label set {locations} need"
                f" the shape {(len(names), len(locations))}.",
                hint="Give one row per id and one column per location, in the order of the label set.",
            )
        return _predictions_in(path, names, array.astype(np.float32), locations, {"file": path.name})
    raise TableError(
        f"{path} has the suffix {path.suffix!r}, which is not a format of predictions.",
        hint="Give a .parquet, .csv, .tsv, .npy or .npz file.",
    )


def read_parquet_predictions(path: Path) -> Predictions:
    """Read a Parquet file that :func:`write_predictions` wrote.

    Args:
        path: The file.

    Returns:
        The predictions.

    Raises:
        FormatError: If the file cannot be read, is damaged, or has another format or version.
        TableError: If values are not probabilities.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(
            f"{path} cannot be read as Parquet: {first_line(error).rstrip('.')}.",
            hint="Give a predictions file of cytoloc, or predictions as a CSV or NumPy file.",
        ) from error
    header = (table.schema.metadata or {}).get(b"cytoloc", b"{}")
    try:
        header = json.loads(header)
    except ValueError as error:
        raise FormatError(f"{path} is damaged: its provenance is not JSON.", hint=_AGAIN) from error
    check_format(header if isinstance(header, dict) else {}, PREDICTIONS_FORMAT, where=path)
    provenance = header.get("provenance")
    fitting = isinstance(provenance, dict) and type(provenance.get("fields_trained_on", 0)) is int
    try:
        label_set = LabelSet.from_json(header.get("label_set"))
    except LabelSetError as error:
        raise FormatError(f"{path} is damaged: {error.message}", hint=_AGAIN) from error
    expected = pa.schema([pa.field("id", pa.string()), *(pa.field(key, pa.float32()) for key in label_set.keys)])
    if CAUTION in table.schema.names:
        expected = expected.append(pa.field(CAUTION, pa.string()))
    of_cells = "cell" in table.schema.names
    if of_cells:
        for name, kind in _cell_types().items():
            expected = expected.append(pa.field(name, kind))
    if table.schema.names != expected.names or not fitting:
        raise FormatError(f"{path} is damaged: columns or the provenance are missing.", hint=_AGAIN)
    try:
        table = table.cast(expected)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FormatError(f"{path} is damaged: {first_line(error).rstrip('.')}.", hint=_AGAIN) from error
    if table["id"].null_count:
        raise FormatError(f"{path} is damaged: a field has no id.", hint=_AGAIN)
    probabilities = np.stack([table[key].to_numpy() for key in label_set.keys], axis=1)
    found = _predictions_in(path, table["id"].to_pylist(), probabilities, label_set, provenance)
    found = replace(found, rejected=dict(header.get("rejected", ())))
    if of_cells:
        columns = {name: table[name].to_pylist() for name in CELL_COLUMNS}
        found = replace(found, cells=pl.DataFrame(columns, schema=pl.Schema(CELL_COLUMNS)))
    if CAUTION not in table.schema.names:
        return found
    return replace(found, cautions=tuple(text or "" for text in table[CAUTION].to_pylist()))


def _shipped_label_set(columns: Sequence[str], path: Path) -> LabelSet:
    """Return the shipped label set whose keys or names are the columns of a CSV file.

    Raises:
        TableError: If there is none. The hint names columns that are not locations of the most similar label set.
    """
    have = {name.strip().casefold(): name for name in columns}
    most: tuple[int, list[str], LabelSet] | None = None
    for shipped in map(find_label_set, SHIPPED):
        for words in (shipped.keys, shipped.names):
            named = {word.casefold() for word in words}
            if have.keys() == named:
                return shipped
            if named <= have.keys() and (most is None or len(named) > most[0]):
                most = len(named), [name for plain, name in have.items() if plain not in named], shipped
    if most is not None:
        extra = ", ".join(most[1][:5])
        raise TableError(
            f"{path} has columns that are not locations of the label set {most[2]}: {extra}.",
            hint="Remove these columns; keep the column Id and one column per location.",
        )
    raise TableError(
        f"{path} has the columns {', '.join(columns)[:200]}, which match no shipped label set.", hint=_GIVE_LABEL_SET
    )


def _predictions_in(
    path: Path, ids: Sequence[str], values: Float32Array, label_set: LabelSet, provenance: dict[str, Any]
) -> Predictions:
    """Return predictions that were read from a file; errors name the file.

    Values that rounding has moved out of the range from 0 to 1 are clipped.
    """
    near = (values >= -ROUNDING) & (values <= 1 + ROUNDING)
    values = np.where(near, np.clip(values, 0, 1), values)
    try:
        return Predictions(tuple(ids), values, label_set, provenance)
    except TableError as error:
        raise TableError(f"{path}: {error.message}", hint=error.hint) from error


def read_array(path: Path) -> NDArray[Any]:
    """Read an array from a NumPy file.

    Args:
        path: A ``.npy`` file, or an ``.npz`` file with one array or an array named ``probabilities``.

    Returns:
        The array.

    Raises:
        TableError: If the file cannot be read, or contains several arrays without a known name.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        names = list(loaded.files)
        chosen = "probabilities" if "probabilities" in names else names[0] if len(names) == 1 else None
        array: NDArray[Any] | None = None if chosen is None else loaded[chosen]
    # Damaged archives raise different errors, depending on the library that reads them.
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
            f"{path} cannot be read as a NumPy file: {error}.", hint="Save the array again with numpy.save."
        ) from error
    if array is None:
        raise TableError(
            f"{path} contains the arrays {', '.join(names)}." if names else f"{path} contains no array.",
            hint="Save one array, or name one of them 'probabilities'.",
        )
    if not isinstance(array, np.ndarray):
        raise TableError(f"{path} contains no array.", hint="Save the array again with numpy.save.")
    return array
