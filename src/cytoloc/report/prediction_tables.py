"""Tables of predictions for people: names instead of keys, as CSV or Excel files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import polars as pl

from cytoloc.choices import check_type, refuse_unknown
from cytoloc.errors import SettingsError
from cytoloc.files import new_file
from cytoloc.predictions import Predictions

TableLayout = Literal["fields", "locations"]
"""One row per field, or one row per field and location."""

TABLE_SUFFIXES: Final = (".csv", ".xlsx")

MOST_EXCEL_ROWS: Final = 1_048_575
"""Number of rows of an Excel sheet, without the header."""


def prediction_table(
    predictions: Predictions, *, layout: TableLayout = "fields", files: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Return predictions as a table for people.

    Args:
        predictions: The predictions.
        layout: ``"fields"`` for one row per field: the decided locations, what is known of them, the caution, and a
            probability per location. ``"locations"`` for one row per field and location: the probability, the
            threshold, the Gene Ontology term, and whether the location was decided.
        files: The file or dataset of each field, by its id.

    Returns:
        The table.

    Raises:
        SettingsError: If ``layout`` is unknown.

    Examples:
        >>> import numpy as np
        >>> from cytoloc import LabelSet, Predictions
        >>> values = np.array([[0.9, 0.2]], np.float32)
        >>> found = Predictions(("a",), values, LabelSet.from_names(["Cytosol", "Nucleoli"], name="two"))
        >>> prediction_table(found).columns
        ['id', 'Cytosol', 'Nucleoli']
        >>> prediction_table(found, layout="locations").columns
        ['id', 'location', 'go_id', 'probability']
    """
    check_type(predictions, Predictions, argument="predictions")
    refuse_unknown(layout, get_args(TableLayout), argument="layout")
    knowledge: Mapping[str, str] = predictions.provenance.get("knowledge", {})
    thresholds: Mapping[str, float] = predictions.provenance.get("thresholds", {})
    label_set, ids, decided = predictions.label_set, list(predictions.ids), predictions.decided
    origin = {"file": [files.get(name, "") for name in ids]} if files else {}
    caution = {"caution": list(predictions.cautions)} if predictions.cautions else {}
    if layout == "fields":
        columns: dict[str, Any] = {"id": ids}
        if decided is not None:
            chosen = predictions.locations
            columns["locations"] = ["; ".join(each.name for each in found) for found in chosen]
            if knowledge:
                columns["knowledge"] = [
                    "; ".join(f"{each.name}: {knowledge[each.key]}" for each in found if each.key in knowledge)
                    for found in chosen
                ]
        columns |= caution
        columns |= dict(zip(label_set.names, predictions.probabilities.T, strict=True))
        return pl.DataFrame(columns | origin)
    many = len(label_set)
    long: dict[str, Any] = {
        "id": np.repeat(ids, many),
        "location": list(label_set.names) * len(ids),
        "go_id": [each.go_id for each in label_set] * len(ids),
        "probability": predictions.probabilities.ravel(),
    }
    if thresholds:
        long["threshold"] = [thresholds.get(key) for key in label_set.keys] * len(ids)
    if decided is not None:
        long["decided"] = decided.ravel()
    if knowledge:
        long["knowledge"] = [knowledge.get(key, "") for key in label_set.keys] * len(ids)
    long |= {name: np.repeat(values, many) for name, values in (caution | origin).items()}
    return pl.DataFrame(long)


def write_table(
    predictions: Predictions,
    path: str | Path,
    *,
    layout: TableLayout = "fields",
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write predictions to a new table for people.

    Args:
        predictions: The predictions.
        path: The new file. Its name ends in ``.csv``, or in ``.xlsx`` for Excel.
        layout: One row per field, or one row per field and location; see :func:`prediction_table`.
        files: The file or dataset of each field, by its id.

    Returns:
        The path.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the name has another ending, or the table has too many rows for Excel.
        OutputExistsError: If the file exists.
    """
    check_type(predictions, Predictions, argument="predictions")
    check_type(path, (str, Path), argument="path")
    path = Path(path)
    check_table_path(path)
    table = prediction_table(predictions, layout=layout, files=files)
    check_table_rows(path, len(table))
    with new_file(path) as temporary:
        if path.suffix == ".csv":
            table.write_csv(temporary, float_precision=4)
        else:
            table.write_excel(temporary, "predictions", autofit=True, float_precision=3, freeze_panes="B2")
    return path


def check_table_path(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if a table cannot have this name."""
    if path.suffix not in TABLE_SUFFIXES:
        raise SettingsError(
            f"{path} is not a valid name for a table: the ending {path.suffix or '(none)'} is unknown.",
            hint=f"Choose a name that ends in {' or '.join(TABLE_SUFFIXES)}.",
        )


def check_table_rows(path: Path, rows: int) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if a table has too many rows for an Excel file."""
    if path.suffix == ".xlsx" and rows > MOST_EXCEL_ROWS:
        raise SettingsError(
            f"The table has {rows:,} rows, but an Excel sheet has at most {MOST_EXCEL_ROWS:,}.",
            hint="Write a .csv file, or one row per field.",
        )
