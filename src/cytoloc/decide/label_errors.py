"""Labels that are probably wrong, found by confident learning on out-of-fold predictions.

Probabilities are calibrated first. Each location is a binary problem. The mean probability of the fields with a label
is the limit from which an unlabeled field is a suspect: its label is probably missing. The mean of the fields without
the label is the limit for labels that are probably wrong (Northcutt, Jiang & Chuang, Confident Learning, Journal of
Artificial Intelligence Research 70, 2021).

Suspects are ordered by the odds that a label is wrong. If errors hit all missing labels alike, and all given labels
alike, the odds are proportional to ``1 / p`` for a label with the probability ``p``, and to ``1 / (1 - p)`` for a
missing one.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import polars as pl

from cytoloc.decide.calibration import fit_calibration
from cytoloc.decide.inputs import LEAST_PROBABILITY, FieldGroups, FieldLabels, MemberPredictions, as_labeled_members
from cytoloc.decide.thresholds import average_groups
from cytoloc.errors import ArgumentTypeError
from cytoloc.labels.label_set import LabelSet

FEWEST: Final = 3
"""Minimum number of fields with and without a label. With fewer, the limits of a location are unknown."""

SCHEMA: Final = pl.Schema(
    {
        "id": pl.String(),
        "key": pl.String(),
        "location": pl.String(),
        "problem": pl.String(),
        "probability": pl.Float64(),
        "limit": pl.Float64(),
        "score": pl.Float64(),
    }
)


def find_label_errors(
    predictions: MemberPredictions,
    labels: FieldLabels,
    *,
    groups: FieldGroups | None = None,
    label_set: LabelSet | str | None = None,
) -> pl.DataFrame:
    """Find labels that are probably wrong or missing, by confident learning.

    Args:
        predictions: Out-of-fold predictions, or a mapping of member names to them, whose mean is taken. No model may
            have been trained on the fields that it predicts.
        labels: The labels: a dataset, a label list, or a mapping of ids to indices of locations.
        groups: A table with the columns ``id`` and ``group``, such as folds. Labels usually belong to wells or
            antibodies, so the probabilities of a group are averaged first.
        label_set: The label set of the labels, if they are a mapping.

    Returns:
        A table with one row per suspect, the clearest first. ``problem`` is ``"missing"`` if the location is probably
        there, but not labeled; ``"extra"`` if it is labeled, but probably not there. ``limit`` is the mean probability
        of the fields with the label, or without it. ``score`` is the logarithm, to the base 10, of the relative odds
        that the label is wrong.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If predictions and labels have different fields.
        LabelSetError: If label sets differ.
    """
    given = as_labeled_members(predictions, labels, groups=groups, label_set=label_set)
    if given.members.ids is None:
        raise ArgumentTypeError("`predictions` must be Predictions, because the result lists ids.")
    probabilities = np.nanmean(given.members.stack, axis=0)
    if given.groups is not None:
        probabilities = average_groups(probabilities, given.groups)
    probabilities = fit_calibration("platt", probabilities, given.truth)(probabilities)
    labels_given = max(int(given.truth.sum()), 1)
    # There are more places where a label can be added than labels that can be lost.
    odds = np.where(
        given.truth,
        1 / np.maximum(probabilities, LEAST_PROBABILITY),
        (given.truth.size - labels_given) / labels_given / np.maximum(1 - probabilities, LEAST_PROBABILITY),
    )
    rows: list[tuple[object, ...]] = []
    for column, location in enumerate(given.label_set):
        values, labeled = probabilities[:, column], given.truth[:, column]
        if min(labeled.sum(), (~labeled).sum()) < FEWEST:
            continue
        with_label, without = float(values[labeled].mean()), float(values[~labeled].mean())
        if with_label <= without + LEAST_PROBABILITY:
            continue  # the predictions know nothing of this location
        for problem, suspects, limit in (
            ("missing", ~labeled & (values >= with_label), with_label),
            ("extra", labeled & (values <= without), without),
        ):
            rows += [
                (
                    given.members.ids[row],
                    location.key,
                    location.name,
                    problem,
                    float(values[row]),
                    limit,
                    math.log10(odds[row, column]),
                )
                for row in np.flatnonzero(suspects)
            ]
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return table.sort(["score", "id", "key"], descending=[True, False, False])
