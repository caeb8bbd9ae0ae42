"""The single-cell task of the 2021 Kaggle competition: encoded masks, submissions, and average precision of cells."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc._typing import BoolArray, FloatArray
from cytoloc.cells.labels import Labels, consecutive
from cytoloc.cells.measures import overlaps
from cytoloc.cells.sources import labels_of
from cytoloc.choices import check_type
from cytoloc.dataset.store import Dataset
from cytoloc.decide.evaluation import AveragePrecision, precision_table
from cytoloc.decide.inputs import FieldLabels, as_truth, common_label_set
from cytoloc.decide.metrics import AP_RESAMPLES, mean_interval
from cytoloc.errors import ImageError, SettingsError, TableError
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
        TableError: If a cell is not in its label image.
        ImageError: If a label image is missing.
        OutputExistsError: If the file exists.
    """
    check_type(predictions, Predictions, argument="predictions")
    check_type(cells, Dataset, argument="cells")
    check_type(path, (str, Path), argument="path")
    table = submitted_cells(predictions)
    fields: dict[str, list[int]] = {}
    for row, name in enumerate(table["field"].to_list()):
        fields.setdefault(name, []).append(row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["ID", "ImageWidth", "ImageHeight", "PredictionString"])
    numbers = table["cell"].to_list()
    for name, rows in fields.items():
        labels = labels_of(cells, name).cells
        words = []
        for row in rows:
            own = labels == numbers[row]
            if not own.any():
                raise TableError(
                    f"The predicted cell {numbers[row]} of {name} is not in the label image.",
                    hint="Give the dataset of cells that the cells are from.",
                )
            mask = encode_mask(own)
            for index, probability in enumerate(predictions.probabilities[row].tolist()):
                if probability >= least:
                    words.append(f"{index} {probability:.5g} {mask}")
        writer.writerow([name, labels.shape[1], labels.shape[0], " ".join(words)])
    with new_file(Path(path)) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return Path(path)


def submitted_cells(predictions: Predictions) -> pl.DataFrame:
    """Return the table of the cells of predictions that can be submitted to the 2021 Kaggle competition.

    Args:
        predictions: The predictions.

    Returns:
        The table, which is ``predictions.cells``.

    Raises:
        SettingsError: If the label set is not hpa19, or the predictions are not of cells.
    """
    if len(predictions.label_set) != 19:
        raise SettingsError(
            f"The predictions have the label set {predictions.label_set.name}, but the competition has 19 locations.",
            hint="Convert them first: `cytoloc labels convert`, or cytoloc.convert_predictions(predictions, 'hpa19').",
        )
    if predictions.cells is None:
        raise SettingsError("The predictions are not of cells.", hint="Predict a dataset of `cytoloc segment`.")
    return predictions.cells


def cell_average_precision(
    found: Mapping[str, tuple[Labels, FloatArray]],
    truth: Mapping[str, tuple[Labels, BoolArray]],
    *,
    iou: float = LEAST_IOU,
) -> FloatArray:
    """Return the average precision of each location over cells, as the 2021 competition measures it.

    For each location, cells are ranked by their probability. A cell is correct if it overlaps a true cell with the
    location that no cell with a higher probability has taken. The mean over locations is the score.

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
    fields = {}
    for name, (labels, probabilities) in found.items():
        true_labels, has = truth[name]
        for what, image, rows in (("found", labels, probabilities), ("truth", true_labels, has)):
            count = len(consecutive(image)[1]) - 1
            if rows.shape[1] != has.shape[1]:
                raise TableError(f"`found` has {rows.shape[1]} locations for {name}, but `truth` has {has.shape[1]}.")
            if len(rows) != count:
                raise TableError(
                    f"`{what}` has {len(rows)} rows for {count} cells of {name}.", hint="Give one per cell."
                )
        numbers, true_numbers = consecutive(labels)[1][1:], consecutive(true_labels)[1][1:]
        fields[name] = _ScoredField(labels, numbers, probabilities, true_labels, true_numbers, has)
    once = np.ones((1, len(fields)), np.int64)
    return np.asarray(_average_precisions(_matched(fields, iou), once)[0], np.float64)


def cell_mean_average_precision(
    predictions: Predictions,
    cells: Dataset,
    labels: FieldLabels,
    *,
    truth: Dataset | None = None,
    iou: float = LEAST_IOU,
) -> AveragePrecision:
    """Return the mean average precision of predicted cells, as the 2021 competition scores it.

    A predicted cell is correct for a location if its mask overlaps the mask of a true cell with the location that no
    cell with a higher probability has taken. Cells without a prediction, such as cells without a nucleus, count neither
    as correct nor as wrong.

    Args:
        predictions: Predictions of cells.
        cells: The dataset of the predicted cells, which has their label images.
        labels: The locations of each true cell, by the id of the cell: a label list, a dataset of cells, or a mapping
            of ids to indices of locations.
        truth: A dataset of the true cells of the same fields, which has their label images. Default: ``cells``.
        iou: The smallest intersection over union of a predicted and a true cell.

    Returns:
        The metrics. ``interval`` is from resampling fields.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the predictions are not of cells, or ``iou`` is out of range.
        LabelSetError: If the label sets differ.
        TableError: If the truth lacks a predicted field, a true cell has no labels, no true cell has
            a location, or a cell is not in its label image.
        ImageError: If a label image is missing, or has another size.
    """
    check_type(predictions, Predictions, argument="predictions")
    check_type(cells, Dataset, argument="cells")
    check_type(truth, (Dataset, type(None)), argument="truth")
    truth = cells if truth is None else truth
    if predictions.cells is None:
        raise SettingsError("The predictions are not of cells.", hint="Predict a dataset of `cytoloc segment`.")
    if not 0 < iou <= 1:
        raise SettingsError(f"`iou` is {iou}.", hint="Give a value above 0 and at most 1.")
    locations = common_label_set(predictions.label_set, labels, None, columns=len(predictions.label_set))
    has = as_truth(labels, truth.ids, locations, shape=(len(truth), len(locations)))
    found_of, true_of = _rows_by_field(predictions.cells), _rows_by_field(truth.fields)
    unknown = [name for name in found_of if name not in true_of]
    if unknown:
        raise TableError(
            f"{len(unknown)} predicted fields have no true cells, such as {unknown[0]}.",
            hint="Give the true cells of all fields, or predict fewer fields.",
        )
    numbers, true_numbers = predictions.cells["cell"].to_numpy(), truth.fields["cell"].to_numpy()
    scored = {}
    for name, places in true_of.items():
        rows, image = np.array(found_of.get(name, []), np.int64), labels_of(truth, name).cells
        own = labels_of(cells, name).cells if len(rows) else np.zeros_like(image)
        scored[name] = _ScoredField(
            own, numbers[rows], predictions.probabilities[rows], image, true_numbers[places], has[places]
        )
    matches = _matched(scored, iou)
    if not matches.truth.any():
        raise TableError("No true cell has a location.", hint="Check the labels.")
    values = _average_precisions(matches, np.ones((1, len(scored)), np.int64))[0]
    draws = np.random.default_rng(0).multinomial(len(scored), np.full(len(scored), 1 / len(scored)), size=AP_RESAMPLES)
    resampled = _average_precisions(matches, draws)
    return AveragePrecision(
        rows=len(matches.scores),
        label_set=predictions.label_set,
        mean=float(np.nanmean(values)),
        interval=mean_interval(resampled, values),
        interval_by_group=None,
        share_of_positives=None,
        classes=precision_table(predictions.label_set, matches.truth.sum(axis=0), values, resampled),
    )


def _rows_by_field(table: pl.DataFrame) -> dict[str, list[int]]:
    """Return the rows of each field."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table["field"].to_list()):
        rows.setdefault(name, []).append(row)
    return rows


class _ScoredField(NamedTuple):
    """The found and the true cells of a field: label images, the numbers of the cells, and a row per cell."""

    labels: Labels
    numbers: NDArray[np.integer]
    probabilities: NDArray[np.floating]
    true_labels: Labels
    true_numbers: NDArray[np.integer]
    truth: BoolArray


class _Matches(NamedTuple):
    """All found cells, and the true cell that each one overlaps.

    Attributes:
        scores: The probabilities of the found cells, shape ``(n, locations)``.
        match: The row of the true cell, -1 for none, shape ``(n,)``.
        field: The number of the field of each found cell.
        truth: The locations of the true cells, shape ``(m, locations)``.
        true_field: The number of the field of each true cell.
    """

    scores: FloatArray
    match: NDArray[np.int64]
    field: NDArray[np.int64]
    truth: BoolArray
    true_field: NDArray[np.int64]


def _matched(fields: Mapping[str, _ScoredField], iou: float) -> _Matches:
    """Return the true cell that each found cell overlaps most, if this is enough."""
    matches, places, true_places, start = [], [], [], 0
    for number, (name, field) in enumerate(fields.items()):
        if field.labels.shape != field.true_labels.shape:
            raise ImageError(
                f"Label images of {name} have the shapes {field.labels.shape} and {field.true_labels.shape}.",
                hint="Give label images of the same fields.",
            )
        (one, found), (other, true) = consecutive(field.labels), consecutive(field.true_labels)
        for what, wanted, present in (("predicted", field.numbers, found), ("true", field.true_numbers, true)):
            lacking = wanted[~np.isin(wanted, present)]
            if len(lacking):
                raise TableError(
                    f"The {what} cell {lacking[0]} of {name} is not in the label image.",
                    hint="Give the dataset of cells that the cells are from.",
                )
        shared = overlaps(one, other)
        sizes = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
        rows, columns = np.searchsorted(found, field.numbers), np.searchsorted(true, field.true_numbers)
        ratio = (shared / np.maximum(sizes, 1))[np.ix_(rows, columns)]
        best = ratio.argmax(axis=1) if ratio.shape[1] else np.zeros(len(rows), np.int64)
        enough = ratio.max(axis=1, initial=0) >= iou
        matches.append(np.where(enough, best + start, -1))
        places.append(np.full(len(rows), number))
        true_places.append(np.full(len(columns), number))
        start += len(columns)
    return _Matches(
        np.concatenate([np.asarray(field.probabilities, np.float64) for field in fields.values()]),
        np.concatenate(matches),
        np.concatenate(places),
        np.concatenate([field.truth for field in fields.values()]),
        np.concatenate(true_places),
    )


def _average_precisions(matches: _Matches, weights: NDArray[np.int64]) -> FloatArray:
    """Return the average precision of each location, with each field counted as often as its weight.

    Args:
        matches: The found and the true cells.
        weights: Shape ``(weightings, fields)``.

    Returns:
        float64 of shape ``(weightings, locations)``; NaN where no true cell counts.
    """
    found = np.full((len(weights), matches.truth.shape[1]), np.nan)
    for location in range(found.shape[1]):
        positives = weights[:, matches.true_field[matches.truth[:, location]]].sum(axis=1)
        order = np.argsort(-matches.scores[:, location], kind="stable")
        match = matches.match[order]
        right = np.zeros(len(order), bool)
        right[np.unique(match, return_index=True)[1]] = True
        right &= (match >= 0) & matches.truth[match, location]
        counts = weights[:, matches.field[order]].astype(np.float64)
        hits, total = np.cumsum(counts * right, axis=1), np.cumsum(counts, axis=1)
        precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
        highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        area = (counts * right * highest).sum(axis=1)
        np.divide(area, positives, out=found[:, location], where=positives > 0)
    return found
