"""Fields of a report with their images, maps and nearest labeled fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cytoloc._typing import BoolArray, Float32Array, FloatArray
from cytoloc.channels import PROTEIN
from cytoloc.dataset.store import Dataset
from cytoloc.predictions import Predictions
from cytoloc.report.blocks import Block, Card, Cards, Section, Text, jpeg_uri
from cytoloc.report.panels import composite, is_imaged, legend, overlay, stretch

if TYPE_CHECKING:
    from cytoloc.predict.model import Model

SHOWN_PX: Final = 224
"""Maximum edge length of an image in the page, in pixels. Screens with fine pixels show twice its size on the page."""

ROWS_AT_ONCE: Final = 8
"""Number of fields whose maps are in memory at the same time."""

MAPS_PER_FIELD: Final = 3
NEIGHBORS_PER_FIELD: Final = 3


@dataclass(frozen=True, kw_only=True)
class CardSource:
    """What fields are shown with.

    Attributes:
        predictions: The predictions.
        decided: The locations of each field, bool of shape ``(n, locations)``.
        truth: The labels of each field; None if they are unknown.
        dataset: The dataset of the fields, for their images. None: no images.
        model: The model, for maps. None: no maps.
        reference: A labeled dataset, for the nearest labeled fields. None: none are shown.
    """

    predictions: Predictions
    decided: BoolArray
    truth: BoolArray | None = None
    dataset: Dataset | None = None
    model: Model | None = None
    reference: Dataset | None = None


def log_losses(probabilities: Float32Array, truth: BoolArray) -> FloatArray:
    """Return the log loss of each field, averaged over locations, float64 of shape ``(n,)``."""
    values = np.clip(np.asarray(probabilities, np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(-np.where(truth, np.log(values), np.log1p(-values)).mean(axis=1), np.float64)


def expected_errors(probabilities: Float32Array) -> FloatArray:
    """Return the expected number of wrong locations of each field, if each probability is calibrated.

    It is the sum of the smaller of p and 1 - p. A field with a high value is uncertain.
    """
    return np.asarray(np.minimum(probabilities, 1 - probabilities).sum(axis=1), np.float64)


def fields_section(source: CardSource, count: int) -> Section:
    """Return the section with the worst and the most uncertain fields.

    Args:
        source: What fields are shown with.
        count: Number of fields of each kind.

    Returns:
        The section.
    """
    probabilities = source.predictions.probabilities
    errors = expected_errors(probabilities)
    uncertain = np.argsort(-errors, kind="stable")[:count].tolist()
    worst: list[int] = []
    losses = np.zeros(len(probabilities))
    if source.truth is not None:
        losses = log_losses(probabilities, source.truth)
        worst = np.argsort(-losses, kind="stable")[:count].tolist()
    cautions = source.predictions.cautions
    unusual = [row for row, text in enumerate(cautions) if text][:count]
    rows = list(dict.fromkeys([*worst, *uncertain, *unusual]))
    images = _images_of(source, rows)
    blocks: list[Block] = []
    if images and source.dataset is not None:
        text = f"Images: {legend(source.dataset.channels)}."
        if source.model is not None:
            text += " Maps (black to yellow, over the protein) show what contributed to the probability of a location."
        blocks.append(Text(text))
    if worst:
        cards = [_card(source, row, [f"log loss {losses[row]:.3f}"], images) for row in worst]
        blocks.append(
            Cards(cards, "The worst fields: those with the highest log loss. Some of their labels may be wrong.")
        )
    cards = [_card(source, row, [f"expected wrong locations {errors[row]:.2f}"], images) for row in uncertain]
    blocks.append(
        Cards(
            cards,
            "The most uncertain fields: those with the highest expected number of wrong locations, by their own"
            " probabilities.",
        )
    )
    if unusual:
        blocks.append(Cards([_card(source, row, [], images) for row in unusual], "Fields whose images are unusual."))
    return Section("fields", "Fields to look at", blocks)


def _card(source: CardSource, row: int, lines: Sequence[str], images: dict[int, list[tuple[str, str]]]) -> Card:
    """Return the card of a field."""
    names = source.predictions.label_set.names
    values = source.predictions.probabilities[row]
    if source.truth is not None:
        labels = ", ".join(names[place] for place in np.flatnonzero(source.truth[row])) or "none"
        lines = [f"labels: {labels}", *lines]
    called = ", ".join(f"{names[place]} {values[place]:.2f}" for place in np.flatnonzero(source.decided[row])) or "none"
    top = ", ".join(f"{names[place]} {values[place]:.2f}" for place in np.argsort(-values, kind="stable")[:3])
    more = [f"predicted: {called}", f"most probable: {top}", *lines]
    if source.predictions.cautions and source.predictions.cautions[row]:
        more.append(f"unusual: {source.predictions.cautions[row]}")
    return Card(source.predictions.ids[row], more, images.get(row, []))


def _images_of(source: CardSource, rows: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """Return the images of some rows: composite, channels, maps and nearest labeled fields."""
    dataset = source.dataset
    rows = [row for row in rows if dataset is not None and source.predictions.ids[row] in dataset]
    if dataset is None or not rows:
        return {}
    places = [dataset.row(source.predictions.ids[row]) for row in rows]
    # A few fields at a time, because the maps of all locations need much memory.
    if source.model is not None and len(rows) > ROWS_AT_ONCE:
        parts = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
        return {row: images for part in parts for row, images in _images_of(source, part).items()}
    explained = None
    if source.model is not None:
        from cytoloc.explain.maps import explain_sources
        from cytoloc.predict.sources import DatasetSource

        shown_rows = DatasetSource(dataset, np.array(places))
        explained = explain_sources(source.model, [shown_rows], neighbors=source.reference)
    names = source.predictions.label_set.names
    found: dict[int, list[tuple[str, str]]] = {}
    channels = dataset.channels
    for number, (row, image) in enumerate(zip(rows, dataset.read(places), strict=True)):
        order = sorted(range(len(channels)), key=lambda each: channels[each] != PROTEIN)
        images = [("composite", jpeg_uri(composite(image, channels), most_px=SHOWN_PX))] if len(channels) > 1 else []
        for channel in order:
            plane = np.repeat(stretch(image[channel])[..., None], 3, axis=-1)
            uri = jpeg_uri(plane, most_px=SHOWN_PX) if is_imaged(image[channel]) else ""
            images.append((channels[channel], uri))
        if explained is not None:
            protein = explained.images[number, explained.channels.index(PROTEIN)]
            wanted = np.argsort(-explained.probabilities[number], kind="stable")[:MAPS_PER_FIELD]
            for place in wanted:
                name = names[source.predictions.label_set.index(explained.locations[place])]
                shown = overlay(protein, explained.maps[number, place])
                images.append(
                    (f"map of {name} {explained.probabilities[number, place]:.2f}", jpeg_uri(shown, most_px=SHOWN_PX))
                )
            if explained.neighbors is not None and source.reference is not None:
                labels = source.reference.labels
                for at in explained.neighbors.rows[number][:NEIGHBORS_PER_FIELD]:
                    name = explained.neighbors.reference_ids[at]
                    known = labels[source.reference.row(name)]
                    text = ", ".join(each.name for each in known or ()) or "no label"
                    shown = composite(source.reference[name], source.reference.channels)
                    images.append((f"near: {text}", jpeg_uri(shown, most_px=SHOWN_PX)))
        found[row] = images
    return found
