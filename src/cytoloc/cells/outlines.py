"""Outlines of cells and nuclei on their fields, to look at a segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.cells.labels import CellLabels, Labels
from cytoloc.cells.sources import fields_at_full_resolution, labels_of
from cytoloc.channels import CHANNELS, NUCLEUS, PROTEIN
from cytoloc.choices import check_type
from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.store import Dataset
from cytoloc.errors import TableError
from cytoloc.files import new_file

SHOWN: Final = 6
"""Default number of fields."""

TILE_PX: Final = 1024
"""Largest edge length of a field on the sheet, in pixels."""

_CELL, _NUCLEUS, _FLAGGED = (255, 255, 0), (255, 255, 255), (255, 90, 90)


def outline_sheet(
    cells: Dataset,
    inputs: Dataset | str | Path,
    out: str | Path,
    *,
    ids: Sequence[str] | None = None,
    channels: Mapping[str, str | int] | Sequence[str] | None = None,
) -> list[str]:
    """Draw fields with the outlines of their cells (yellow) and nuclei (white).

    Cells without exactly one nucleus are red.

    Args:
        cells: The dataset of cells.
        inputs: The fields from which it was made.
        out: The PNG file. An existing file is replaced.
        ids: The ids of the fields. Default: six fields, evenly spaced.
        channels: Where each channel is, as for :func:`cytoloc.segment_cells`.

    Returns:
        The ids of the fields that were drawn.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If none of the fields has cells.
    """
    check_type(cells, Dataset, argument="cells")
    check_type(inputs, (Dataset, str, Path), argument="inputs")
    check_type(out, (str, Path), argument="out")
    check_type(ids, (list, tuple, type(None)), argument="ids")
    fields = fields_at_full_resolution(inputs, channels=channels)
    if ids is None:
        known = cells.fields["field"].unique(maintain_order=True).to_list()
        ids = [known[place] for place in np.linspace(0, len(known) - 1, min(SHOWN, len(known))).round().astype(int)]
    wanted, tiles = set(ids), dict[str, UInt8Array]()
    # The items of a folder can be files with several fields.
    items = [item for item in fields.items if item in wanted] or list(fields.items)
    for item in items:
        for loaded in fields.loader(item)():
            if isinstance(loaded, Rejected) or loaded[0].id not in wanted:
                continue
            name = loaded[0].id
            flagged = cells.fields.filter((cells.fields["field"] == name) & (cells.fields["nuclei"] != 1))
            labels = labels_of(cells, name)
            tiles[name] = outlined(loaded[1], fields.channels, labels, flagged=flagged["cell"].to_list(), title=name)
    if not tiles:
        raise TableError("None of the fields was found in `inputs`.", hint="Give the fields of the dataset of cells.")
    drawn = [name for name in ids if name in tiles]
    columns = int(np.ceil(np.sqrt(len(drawn))))
    height, width = (max(tiles[name].shape[axis] for name in drawn) for axis in (0, 1))
    sheet = np.zeros((-(-len(drawn) // columns) * height, columns * width, 3), np.uint8)
    for place, name in enumerate(drawn):
        row, column = divmod(place, columns)
        tile = tiles[name]
        sheet[row * height :, column * width :][: tile.shape[0], : tile.shape[1]] = tile
    content = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))[1].tobytes()
    path = Path(out)
    path.unlink(missing_ok=True)
    with new_file(path) as temporary:
        temporary.write_bytes(content)
    return drawn


def outlined(
    image: UInt8Array, channels: Sequence[str], labels: CellLabels, *, flagged: Sequence[int] = (), title: str = ""
) -> UInt8Array:
    """Return a colored image of a field with the outlines of its cells.

    Args:
        image: uint8 of shape ``(channels, height, width)``.
        channels: The names of the channels.
        labels: The cells and nuclei.
        flagged: The numbers of the cells that are red.
        title: Text in the corner.

    Returns:
        uint8 of shape ``(height, width, 3)``: microtubules red, endoplasmic reticulum green, nucleus blue; if there is
        no other stain of the cytoplasm, the protein is green. The longer edge has at most 1024 px.
    """
    height, width = image.shape[1:]
    scale = min(1.0, TILE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    view = np.zeros((size[1], size[0], 3), np.float32)
    stains = [name for name in channels if name not in (PROTEIN, NUCLEUS)] or [PROTEIN]
    places = {CHANNELS[0]: 0, NUCLEUS: 2}
    for name, plane in zip(channels, image, strict=True):
        if name not in (*stains, NUCLEUS):
            continue
        small: NDArray[Any] = cv2.resize(plane, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        white = max(float(np.percentile(small, 99.7)), 1.0)
        # A gamma below 1 makes dim cytoplasm visible.
        view[..., places.get(name, 1)] += (small / white).clip(0, 1) ** 0.7 * 255
    drawn = view.clip(0, 255).astype(np.uint8)
    shown = labels.cells if not flagged else np.where(np.isin(labels.cells, list(flagged)), 0, labels.cells)
    drawn[_edges(shown, size)] = _CELL
    if flagged:
        drawn[_edges(np.where(np.isin(labels.cells, list(flagged)), labels.cells, 0), size)] = _FLAGGED
    if labels.nuclei is not None:
        drawn[_edges(labels.nuclei, size)] = _NUCLEUS
    if title:
        cv2.putText(drawn, title, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
    return drawn


def _edges(labels: Labels, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the outlines of objects at another size: inner pixels that differ from a neighbor."""
    places = [(np.arange(edge) + 0.5) * have / edge for edge, have in zip(size[::-1], labels.shape, strict=True)]
    small = labels[places[0].astype(int)[:, None], places[1].astype(int)]
    differs = np.zeros(small.shape, bool)
    rows, columns = small[1:] != small[:-1], small[:, 1:] != small[:, :-1]
    differs[1:] |= rows
    differs[:-1] |= rows
    differs[:, 1:] |= columns
    differs[:, :-1] |= columns
    return np.asarray(differs & (small > 0), np.bool_)
