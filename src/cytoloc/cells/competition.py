"""The single-cell task of the 2021 Kaggle competition: encoded masks, submissions, and average precision of cells."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import BoolArray, FloatArray
from cytoloc.cells.labels import Labels, consecutive
from cytoloc.cells.measures import overlaps
from cytoloc.cells.sources import labels_of
from cytoloc.choices import check_type
from cytoloc.dataset.store import Dataset
from cytoloc.errors import SettingsError, TableError
from cytoloc.files import new_file
from cytoloc.predictions import Predictions

LEAST_IOU: Final = 0.6
"""Intersection over union from which the competition counts a predicted cell as the true cell."""

LEAST_PROBABILITY: Final = 0.01
"""Probability below which a location of a cell is left out of a submission, to keep the file small."""


def encode_mask(mask: BoolArray) -> str:
    """Encode a mask as in the 2021 competition: run lengths as COCO writes them, compressed by zlib, as base64.

    Args:
        mask: bool of shape ``(height, width)``.

    Returns:
        The text.

    Raises:
        TableError: If the mask is not two-dimensional.

    Examples:
        >>> mask = np.zeros((4, 5), bool)
        >>> mask[1:3, 2:4] = True
        >>> bool((decode_mask(encode_mask(mask), 4, 5) == mask).all())
        True
    """
    check_type(mask, np.ndarray, argument="mask")
    if mask.ndim != 2:
        raise TableError(f"`mask` has the shape {mask.shape}, not (height, width).", hint="Give one mask.")
    # COCO counts pixels down the columns, and begins with background.
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0)) if flat.size else np.empty(0, np.int64)
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    text = bytearray()
    for place, count in enumerate(counts):
        # Lengths are written as the difference to the length before the last one, in groups of five bits.
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text.append((bits | (0x20 if more else 0)) + 48)
    return base64.b64encode(zlib.compress(bytes(text), zlib.Z_BEST_COMPRESSION)).decode("ascii")


def decode_mask(text: str, height: int, width: int) -> BoolArray:
    """Decode a mask of the 2021 competition.

    Args:
        text: The encoded mask.
        height: Height in pixels.
        width: Width in pixels.

    Returns:
        bool of shape ``(height, width)``.

    Raises:
        TableError: If the text is not a mask of this size.
    """
    check_type(text, str, argument="text")
    try:
        content = zlib.decompress(base64.b64decode(text, validate=True))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise TableError(
            f"The mask cannot be decoded: {error}.", hint="Give a mask as the competition has it."
        ) from error
    counts: list[int] = []
    value, shift = 0, 0
    for byte in content:
        bits = byte - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise TableError(f"The mask has {sum(counts)} pixels, not {height} x {width}.", hint="Check the image size.")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def write_cell_submission(
    predictions: Predictions, cells: Dataset, path: str | Path, *, least: float = LEAST_PROBABILITY
) -> Path:
    """Write predictions of cells as a submission to the 2021 Kaggle competition.

    The columns are ``ID,ImageWidth,ImageHeight,PredictionString``. A prediction is the index of a location, its
    probability, and the encoded mask of the cell.

    Args:
        predictions: Predictions of cells with the label set ``hpa19``; see :func:`cytoloc.convert_predictions`.
        cells: The dataset of cells, which has the label images.
        path: The new CSV file.
        least: Locations with a lower probability are left out.

    Returns:
        The path.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the label set is not hpa19, or the predictions are not of cells.
        ImageError: If a label image is missing.
        OutputExistsError: If the file exists.
    """
    check_type(predictions, Predictions, argument="predictions")
    check_type(cells, Dataset, argument="cells")
    check_type(path, (str, Path), argument="path")
    if len(predictions.label_set) != 19:
        raise SettingsError(
            f"The predictions have the label set {predictions.label_set.name}, but the competition has 19 locations.",
            hint="Convert them first: `cytoloc labels convert`, or cytoloc.convert_predictions(predictions, 'hpa19').",
        )
    if predictions.cells is None:
        raise SettingsError("The predictions are not of cells.", hint="Predict a dataset of `cytoloc segment`.")
    fields: dict[str, list[int]] = {}
    for row, name in enumerate(predictions.cells["field"].to_list()):
        fields.setdefault(name, []).append(row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "ImageWidth", "ImageHeight", "PredictionString"])
    numbers = predictions.cells["cell"].to_list()
    for name, rows in fields.items():
        labels = labels_of(cells, name).cells
        words = []
        for row in rows:
            mask = encode_mask(labels == numbers[row])
            for index, probability in enumerate(predictions.probabilities[row].tolist()):
                if probability >= least:
                    words.append(f"{index} {probability:.5g} {mask}")
        writer.writerow([name, labels.shape[1], labels.shape[0], " ".join(words)])
    with new_file(Path(path)) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return Path(path)


def cell_average_precision(
    found: Mapping[str, tuple[Labels, FloatArray]],
    truth: Mapping[str, tuple[Labels, BoolArray]],
    *,
    iou: float = LEAST_IOU,
) -> FloatArray:
    """Return the average precision of each location over cells, as the 2021 competition measures it.

    For each location, cells are ranked by their probability. A cell is right if it overlaps a true cell with the
    location that is not taken by a cell with a higher probability. The mean over locations is the score.

    Args:
        found: For each field, its label image and the probabilities of its cells, shape ``(cells, locations)``, in
            order of their numbers.
        truth: For each field, its label image and which cells have which location, shape ``(cells, locations)``.
        iou: The smallest intersection over union of a found and a true cell.

    Returns:
        One value per location; NaN for a location that no true cell has.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If the fields differ.
    """
    check_type(found, Mapping, argument="found")
    check_type(truth, Mapping, argument="truth")
    if set(found) != set(truth):
        raise TableError("`found` and `truth` have different fields.", hint="Give both for the same fields.")
    if not truth:
        raise TableError("`found` and `truth` are empty.", hint="Give at least one field.")
    ranked: list[tuple[str, int, int, FloatArray]] = []
    for name, (labels, probabilities) in found.items():
        one, other = consecutive(labels)[0], consecutive(truth[name][0])[0]
        if len(probabilities) != int(one.max(initial=0)):
            raise TableError(f"`found` has {len(probabilities)} rows for {int(one.max(initial=0))} cells of {name}.")
        shared = overlaps(one, other)
        sizes = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
        ratio = (shared / np.maximum(sizes, 1))[1:, 1:]
        for cell, values in enumerate(probabilities):
            best = int(ratio[cell].argmax()) if ratio.shape[1] else -1
            ranked.append((name, cell, best if best >= 0 and ratio[cell, best] >= iou else -1, values))
    locations = next(iter(truth.values()))[1].shape[1]
    precision = np.full(locations, np.nan)
    for location in range(locations):
        positives = sum(int(labels[:, location].sum()) for _, labels in truth.values())
        if not positives:
            continue
        order = sorted(ranked, key=lambda each: -each[3][location])
        taken: set[tuple[str, int]] = set()
        right = np.zeros(len(order), bool)
        for place, (name, _, match, _) in enumerate(order):
            if match >= 0 and truth[name][1][match, location] and (name, match) not in taken:
                taken.add((name, match))
                right[place] = True
        precision[location] = average_precision(right, positives)
    return precision


def average_precision(right: NDArray[np.bool_], positives: int) -> float:
    """Return the area under the precision-recall curve of ranked predictions, with the precision made monotonic.

    Args:
        right: Whether each prediction is right, the one with the highest probability first.
        positives: The number of true objects.

    Returns:
        The area, from 0 to 1.

    Examples:
        >>> average_precision(np.array([True, False, True]), 2)
        0.8333333333333333
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[right].sum() / positives) if len(right) else 0.0
