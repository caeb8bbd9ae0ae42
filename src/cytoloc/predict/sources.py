"""What predictions are made for: the fields of an atlas, or of a folder of files, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cytoloc.atlas.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.atlas.store import Atlas, open_atlas
from cytoloc.errors import ImageError
from cytoloc.labels import CHANNEL_COLOURS
from cytoloc.parallel import in_order
from cytoloc.pictures.decoding import located
from cytoloc.pictures.scale import Scaling, scale_field


class Source(Protocol):
    """Fields to predict: what they are called together, their ids, and their pixels in the same order."""

    @property
    def name(self) -> str:
        """Where they lie."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each field."""

    def batches(self, size: int, length: int) -> Iterator[NDArray[np.uint8]]:
        """Yield all fields in order, uint8 ``(≤ length, 4, size, size)``."""


class AtlasSource:
    """All fields of an atlas, or the given rows of it."""

    def __init__(self, atlas: Atlas, rows: NDArray[np.int64] | None = None) -> None:
        self.atlas = atlas
        self.rows = np.arange(len(atlas)) if rows is None else rows
        self.name = str(atlas.path)

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each field."""
        every = self.atlas.ids
        return tuple(every[row] for row in self.rows)

    def batches(self, size: int, length: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the fields, resized from the atlas's size to ``size`` if they differ."""
        refuse_enlarging(self.atlas.size, size, where=str(self.atlas.path))
        for start in range(0, len(self.rows), length):
            images = self.atlas.read(self.rows[start : start + length])
            yield np.stack([scale_field(image, Scaling(size=size)).image for image in images])


class FolderSource:
    """All fields of a folder of ``{Id}_{red,green,blue,yellow}.png``, in order of id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        found = find_kaggle_fields(folder)
        for name, files in found.items():
            for colour in CHANNEL_COLOURS.values():
                if colour not in files:
                    raise ImageError(
                        f"{folder}: {name}_{colour}.png is missing.", way_out="Add it, or remove the field."
                    )
        self.found = found
        self.ids = tuple(sorted(found))

    def batches(self, size: int, length: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the fields, decoded and resized to ``size``."""

        def load(name: str) -> NDArray[np.uint8]:
            image = read_kaggle_field(self.folder, name, self.found[name])
            refuse_enlarging(min(image.shape[1:]), size, where=f"Field {name} in {self.folder}")
            with located(f"Field {name} in {self.folder}"):
                return scale_field(image, Scaling(size=size)).image

        batch: list[NDArray[np.uint8]] = []
        for image in in_order(load, self.ids):
            batch.append(image)
            if len(batch) == length:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)


def open_source(path: str | Path) -> Source:
    """Return the fields at ``path``: an atlas, there or at a URL, or a folder of the competition's PNG files.

    Raises:
        ImageError: If there is nothing at ``path``, or it is a folder without fields.
        FormatError: If it is a damaged atlas.
    """
    folder = Path(path)
    if "://" not in str(path) and folder.is_dir() and not (folder / "atlas.json").exists():
        return FolderSource(folder)
    return AtlasSource(open_atlas(path))


def refuse_enlarging(have: int, want: int, *, where: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if pictures of ``have`` pixels are to be shown at ``want``."""
    if have < want:
        raise ImageError(
            f"{where} has {have} px; the model sees {want} px, and detail cannot be invented.",
            way_out="Give the pictures at their original size, or use a model of a smaller size.",
        )
