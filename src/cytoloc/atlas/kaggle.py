"""The competition's own form: a folder of ``{Id}_{red,green,blue,yellow}.png`` and a CSV ``Id,Target``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoloc.atlas.store import Atlas, FieldRow
from cytoloc.atlas.writer import write_atlas
from cytoloc.errors import ImageError
from cytoloc.files import refuse_existing
from cytoloc.labels import CHANNEL_COLOURS, CHANNELS
from cytoloc.parallel import in_order
from cytoloc.pictures.codecs import read_grey_png
from cytoloc.pictures.decoding import located
from cytoloc.pictures.scale import Scaling, scale_field
from cytoloc.scores import read_labels

COLOURS = tuple(CHANNEL_COLOURS[role] for role in CHANNELS)


def import_kaggle(
    folder: Path,
    *,
    path: Path,
    labels: Path | None,
    size: int = 512,
    limit: int | None = None,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Atlas:
    """Pack the fields in a folder of competition PNG files into a new atlas.

    Args:
        folder: Holds ``{Id}_{red,green,blue,yellow}.png``.
        path: Where the atlas goes.
        labels: CSV ``Id,Target``; its fields, in its order, are imported. Without it every field in the folder is,
            unlabelled, in order of id.
        size: Edge of the packed pictures, in pixels.
        limit: Import only the first so many.
        advance: Told after each field how many of how many are done.

    Raises:
        ImageError: If the folder is empty, or a field's file is missing, damaged or of another size.
        TableError: If the labels are not what they must be.
    """
    refuse_existing(path)
    found = find_kaggle_fields(folder)
    known = read_labels(labels) if labels else None
    ids = list(known) if known is not None else sorted(found)
    ids = ids[:limit]
    _refuse_incomplete(ids, found, folder)

    def load(name: str) -> tuple[FieldRow, NDArray[np.uint8]]:
        image = read_kaggle_field(folder, name)
        with located(f"Field {name} in {folder}"):
            packed = scale_field(image, Scaling(size=size)).image
        row = FieldRow(id=name, source="kaggle", original_px=image.shape[1], labels=known[name] if known else None)
        return row, packed

    def counted() -> Iterator[tuple[FieldRow, NDArray[np.uint8]]]:
        for done, field in enumerate(in_order(load, ids), start=1):
            yield field
            advance(done, len(ids))

    made_by = {"command": "import kaggle", "labelled": known is not None}
    return write_atlas(path, counted(), size=size, made_by=made_by)


def read_kaggle_field(folder: Path, name: str) -> NDArray[np.uint8]:
    """Return the field ``name`` from ``{name}_{red,green,blue,yellow}.png``, uint8 ``(4, height, width)``.

    Raises:
        ImageError: If a file is missing or damaged, or the four differ in size.
    """
    paths = [folder / f"{name}_{CHANNEL_COLOURS[role]}.png" for role in CHANNELS]
    planes = [read_grey_png(path) for path in paths]
    for path, plane in zip(paths, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise ImageError(
                f"Field {name} has two sizes: {paths[0].name} is {_size(planes[0])} px,"
                f" {path.name} is {_size(plane)} px.",
                way_out="The four channels of a field must show the same pixels.",
            )
    return np.stack(planes)


def find_kaggle_fields(folder: Path) -> dict[str, set[str]]:
    """Return the colours found for each field id in ``folder``.

    Raises:
        ImageError: If there is no such folder, or no file in it is named like a channel.
    """
    if folder.is_file():
        raise ImageError(f"{folder} is a file, not a folder.", way_out="Give the folder that holds the PNG files.")
    if not folder.is_dir():
        raise ImageError(f"{folder}: there is no such folder.", way_out="Give the folder that holds the PNG files.")
    found: dict[str, set[str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name, _, colour = entry.name.removesuffix(".png").rpartition("_")
            if entry.name.endswith(".png") and name and colour in COLOURS:
                found.setdefault(name, set()).add(colour)
    if not found:
        raise ImageError(
            f"{folder} holds no fields.",
            way_out="A field is four files named {Id}_red.png, {Id}_green.png, {Id}_blue.png"
            " and {Id}_yellow.png, in lower case.",
        )
    return found


def _refuse_incomplete(ids: Sequence[str], found: dict[str, set[str]], folder: Path) -> None:
    lacking = [(name, [c for c in COLOURS if c not in found.get(name, ())]) for name in ids]
    lacking = [(name, colours) for name, colours in lacking if colours]
    if lacking:
        examples = ", ".join(f"{name}_{colours[0]}.png" for name, colours in lacking[:3])
        raise ImageError(
            f"{folder}: {len(lacking)} of {len(ids)} fields lack a channel file, e.g. {examples}.",
            way_out="Add the files, or give labels of the complete fields only.",
        )


def _size(plane: NDArray[np.uint8]) -> str:
    return f"{plane.shape[1]} x {plane.shape[0]}"
