"""What the service sends besides JSON: PNG and JPEG images, and tables."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from fastapi.responses import Response

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from cytoloc.report.panels import composite
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


def png_of(plane: UInt8Array, *, size: int | None = None) -> bytes:
    """Return a plane as a gray PNG image, scaled down by averaging areas.

    Args:
        plane: uint8 of shape ``(h, w)``, or ``(h, w, 3)`` for red, green and blue.
        size: Maximum edge length, in pixels. Default: the edge length of the plane.

    Returns:
        The content of the PNG file.
    """
    edge = plane.shape[0]
    if size is not None and size < edge:
        plane = np.asarray(cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    done, content = cv2.imencode(
        ".png", plane if plane.ndim == 2 else plane[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]
    )
    if not done:
        raise RuntimeError("OpenCV could not write a PNG image.")
    return content.tobytes()


def thumbnail(image: UInt8Array, channels: tuple[str, ...], *, size: int) -> bytes:
    """Return the color composite of a field as a JPEG image.

    Args:
        image: uint8 of shape ``(channels, h, w)``.
        channels: The names of the channels.
        size: Edge length, in pixels.

    Returns:
        The content of the JPEG file.
    """
    if size < image.shape[-1]:
        image = np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in image]).astype(
            np.uint8
        )
    done, content = cv2.imencode(".jpg", composite(image, channels)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise RuntimeError("OpenCV could not write a JPEG image.")
    return content.tobytes()


def map_pixels(values: Float32Array) -> UInt8Array:
    """Return a map with values from 0 to 1 as uint8 from 0 to 255."""
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)
