"""Predictions as files to download."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final, Literal

from fastapi.responses import Response

from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from cytoloc.report.prediction_tables import write_table
from cytoloc.serve.answers import location_answers

TableFormat = Literal["csv", "xlsx", "parquet", "json"]

_TYPES: Final[dict[TableFormat, str]] = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "parquet": "application/vnd.apache.parquet",
    "json": "application/json",
}


def table_response(predictions: Predictions, kind: TableFormat) -> Response:
    """Return predictions as a file: a table with names for CSV and Excel, a predictions file for Parquet, or JSON.

    Args:
        predictions: The predictions.
        kind: The format.

    Returns:
        The response.
    """
    if kind == "json":
        cautions = predictions.cautions or ("",) * len(predictions)
        fields = [
            {
                "id": name,
                "locations": [each.model_dump(exclude={"map"}) for each in location_answers(predictions, row)],
                "caution": cautions[row],
            }
            for row, name in enumerate(predictions.ids)
        ]
        content = json.dumps({"fields": fields}).encode()
    else:
        with tempfile.TemporaryDirectory(prefix="cytoloc-table-") as folder:
            path = Path(folder) / f"predictions.{kind}"
            if kind == "parquet":
                write_predictions(predictions, path)
            else:
                write_table(predictions, path)
            content = path.read_bytes()
    disposition = f'attachment; filename="predictions.{kind}"'
    return Response(content, media_type=_TYPES[kind], headers={"Content-Disposition": disposition})
