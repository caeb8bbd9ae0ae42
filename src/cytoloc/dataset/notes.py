"""Notes for the user after an import, about pixel sizes, brightness, quality flags and missing chunks."""

from __future__ import annotations

import math
from typing import Final

import polars as pl

from cytoloc.dataset.importing import Imported
from cytoloc.images.depth import FLOOR_16_BIT, FLOORS
from cytoloc.images.quality import MISSING_CHUNKS, UNKNOWN_RANGE
from cytoloc.images.scale import HPA_FIELD_UM, far_off

_FLAG_NOTES: Final = {
    "empty": "The channel {channel} looks blank in {fields}: it has no signal above the noise.",
    "saturated": "The channel {channel} is saturated in {fields}.",
    "swapped": "The channel {channel} looks exchanged with another channel in {fields}: check `channels`.",
    UNKNOWN_RANGE: "The channel {channel} has pixels of unknown range in {fields}: the brightest pixels of each field"
    " became white, so that brightness cannot be compared. Give `floor`, or `depth='import'`.",
}
"""Notes for some quality flags. Low contrast and blur are common in good images."""

_FEW: Final = {"empty": 0.05, "saturated": 0.2, "swapped": 0.2}
"""Share of the fields below which a flag causes no note. Single fields are flagged by chance, or for a good reason."""


def chunk_notes(imported: Imported) -> list[str]:
    """Return a note about added fields with channels that lack chunks.

    Args:
        imported: The result of an import.

    Returns:
        The notes.
    """
    if not imported.missing_chunks:
        return []
    flags = imported.column("flags").tail(imported.added)
    lacking = int(flags.list.eval(pl.element().str.ends_with(MISSING_CHUNKS)).list.any().sum())
    return [
        f"The files of {lacking} field{'s' * (lacking > 1)} lack {imported.missing_chunks} chunks, which are black in"
        f" the dataset; the flag {MISSING_CHUNKS} marks the channels. Some programs leave out black chunks, but chunks"
        " may also be lost: check the files, or give `strict` to refuse such fields."
    ]


def scale_notes(imported: Imported, size: int) -> list[str]:
    """Return notes about unusual pixel sizes and brightness of the added fields.

    Args:
        imported: The result of an import.
        size: Edge length of the images, in pixels.

    Returns:
        The notes.
    """
    notes, hpa = [], HPA_FIELD_UM / size
    edges = imported.column("packed_um").tail(imported.added)
    unknown = edges.null_count()
    if unknown:
        notes.append(
            f"The pixel size of {unknown} field{'s' * (unknown > 1)} is unknown; the Human Protein Atlas has"
            f" {hpa:.3f} µm at {size} px. Predictions for cells at another scale are unreliable: give `pixel_um`."
        )
    off = [edge for edge in edges.drop_nulls() if far_off(edge, size)]
    if off:
        span = " to ".join(dict.fromkeys(f"{edge:.3f}" for edge in (min(off), max(off))))
        notes.append(
            f"The pixel size of {len(off)} field{'s' * (len(off) > 1)} in the dataset is {span} µm; the Human Protein"
            f" Atlas has {hpa:.3f} µm at {size} px. Give `target_um={hpa:.3g}` to scale images to the same pixel size."
        )
    blacks, whites = (imported.column(name).tail(imported.added) for name in ("black", "white"))
    floored = 0
    for pair in zip(blacks, whites, strict=True):
        spans = [white - black for black, white in zip(*pair, strict=True) if black is not None and white is not None]
        floored += any(math.isclose(span, floor) for span in spans for floor in FLOORS.values())
    if floored * 2 > len(whites):
        notes.append(
            f"{floored} of {len(whites)} fields have a dark channel: its intensities span less than {FLOOR_16_BIT:.0f},"
            " the default distance between black and white in 16-bit images. If the camera has 12 bits, give"
            " `floor=625`."
        )
    return notes


def flag_notes(imported: Imported) -> list[str]:
    """Return notes about channels that look blank, exchanged or saturated in more than a few of the added fields.

    Args:
        imported: The result of an import.

    Returns:
        The notes.
    """
    counts = imported.column("flags").tail(imported.added).explode().drop_nulls().value_counts(sort=True)
    notes = []
    for flag, count in counts.iter_rows():
        channel, _, what = flag.partition(" ")
        if (said := _FLAG_NOTES.get(what)) and count >= _FEW.get(what, 0) * imported.added:
            fields = f"{count} of {imported.added} field{'s' * (imported.added > 1)}"
            notes.append(said.format(channel=channel, fields=fields))
    return notes
