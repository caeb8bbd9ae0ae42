"""Notes on what a user should check after an import."""

from __future__ import annotations

import polars as pl

from cytoloc.dataset.importing import Imported
from cytoloc.images.depth import FLOOR_16_BIT
from cytoloc.images.quality import MISSING_CHUNKS
from cytoloc.images.scale import HPA_FIELD_UM, far_off


def chunk_notes(imported: Imported) -> list[str]:
    """Return a note about added fields with channels that lack chunks."""
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
    """Return notes about unusual pixel sizes and brightness of the added fields."""
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
    whites = imported.column("white").tail(imported.added)
    floored = int(whites.list.contains(FLOOR_16_BIT).sum())
    if floored * 2 > len(whites):
        notes.append(
            f"{floored} of {len(whites)} fields have a dark channel: all its intensities are below {FLOOR_16_BIT:.0f},"
            " the default white level of 16-bit images. If the camera has 12 bits, give `floor=0`, or its white level."
        )
    return notes
