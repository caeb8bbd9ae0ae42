"""What predictions are made for: the fields of a dataset, or of a folder of files, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import IntArray, UInt8Array
from cytoloc.dataset.quarantine import Rejected, refuse_unprintable, rejected
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ImageError
from cytoloc.images.decoding import located
from cytoloc.images.depth import DepthRule, all_to_8_bit
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.parallel import in_order


class FieldBatch(NamedTuple):
    """Some fields: their ids, their pixels in the same order, and the fields before them that could not be read.

    Attributes:
        ids: One for each image.
        images: uint8 ``(n, channels, size, size)``; n may be 0.
        rejected: Those that have no image, with the reason.
    """

    ids: tuple[str, ...]
    images: UInt8Array
    rejected: tuple[Rejected, ...] = ()


class Source(Protocol):
    """Fields to predict: what they are called together, their ids, and their pixels in the same order."""

    @property
    def name(self) -> str:
        """Where they lie."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels of their pixels, in order."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each field."""

    def batches(self, size: int, length: int) -> Iterator[FieldBatch]:
        """Yield all fields in order, at most ``length`` in a batch."""


class ArraySource:
    """Images in memory.

    16-bit and float images become 8 bits by the Human Protein Atlas's percentile rule, each image by its own bounds.
    Larger images are scaled down by area means.

    Args:
        images: ``(n, channels, h, w)`` or ``(channels, h, w)``, uint8, uint16 or floats.
        channels: Names of the channels, in order.

    Raises:
        ImageError: If the array has another shape or type of pixels.
    """

    name = "the array"

    def __init__(self, images: NDArray[Any], *, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self._images = images[None] if images.ndim == 3 else images
        count = len(channels)
        if self._images.ndim != 4 or self._images.shape[1] != count or 0 in images.shape:
            raise ImageError(
                f"images must have the shape (n, {count}, h, w) or ({count}, h, w); this array has {images.shape}.",
                hint=f"Stack the channels in the order {', '.join(channels)}, or name the given ones by channels.",
            )
        if images.dtype.kind not in "uf" or (images.dtype.kind == "u" and images.dtype.itemsize > 2):
            raise ImageError(
                f"images has {images.dtype} pixels.", hint="Give uint8, uint16 or floats; all but uint8 are scaled."
            )
        self.ids = tuple(str(number) for number in range(len(self._images)))

    def batches(self, size: int, length: int) -> Iterator[FieldBatch]:
        """Yield the images with 8 bits, at ``size``.

        Raises:
            ImageError: If an image is smaller than ``size``, not square, or has values that are not finite.
        """
        for start in range(0, len(self.ids), length):
            ids, found = self.ids[start : start + length], []
            for name, planes in zip(ids, self._images[start : start + length], strict=True):
                with located(f"image {name}"):
                    native = planes.astype(planes.dtype.newbyteorder("="), copy=False)
                    eight = all_to_8_bit(list(native), DepthRule(), called=self.channels).image
                    found.append(scale_field(eight, Scaling(size=size)).image)
            yield FieldBatch(ids, np.stack(found))


class DatasetSource:
    """All fields of a dataset, or the given rows of it."""

    def __init__(self, dataset: Dataset, rows: IntArray | None = None) -> None:
        self.dataset = dataset
        self.rows = np.arange(len(dataset)) if rows is None else rows
        self.name = str(dataset.path)
        self.channels = dataset.channels

    @property
    def ids(self) -> tuple[str, ...]:
        """The id of each field."""
        every = self.dataset.ids
        return tuple(every[row] for row in self.rows)

    def batches(self, size: int, length: int) -> Iterator[FieldBatch]:
        """Yield the fields, resized from the dataset's size to ``size`` if they differ.

        Raises:
            ImageError: If the dataset is smaller than ``size``.
        """
        refuse_enlarging(self.dataset.size, size, where=str(self.dataset.path))
        ids = self.ids
        for start in range(0, len(self.rows), length):
            some = slice(start, start + length)
            images = [scale_field(image, Scaling(size=size)).image for image in self.dataset.read(self.rows[some])]
            yield FieldBatch(ids[some], np.stack(images))


class KaggleFolderSource:
    """All fields of a folder of ``{Id}_{red,green,blue,yellow}.png`` or ``.tif``, in order of id.

    Its channels are those of the files that there are: a folder may lack all files of a color.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        self.found = find_kaggle_fields(folder)
        self.channels = self.found.channels
        self.ids = tuple(sorted(self.found))

    def batches(self, size: int, length: int) -> Iterator[FieldBatch]:
        """Yield the fields, decoded and resized to ``size``; those that cannot be read are rejected."""

        def load(name: str) -> UInt8Array | Rejected:
            """Return a field's image, or why there is none."""
            try:
                refuse_unprintable(name)
                image = read_kaggle_field(self.folder, name, self.found[name], channels=self.channels)
                refuse_enlarging(min(image.shape[1:]), size, where=f"field {name}")
                with located(f"field {name}"):
                    return scale_field(image, Scaling(size=size)).image
            except ImageError as error:
                return rejected(name, error)

        results = zip(self.ids, in_order(load, self.ids), strict=True)
        while some := list(islice(results, length)):
            good = [(name, image) for name, image in some if not isinstance(image, Rejected)]
            shape = (len(good), len(self.channels), size, size)
            images = np.concatenate([image for _, image in good]).reshape(shape) if good else np.empty(shape, np.uint8)
            bad = tuple(result for _, result in some if isinstance(result, Rejected))
            yield FieldBatch(tuple(name for name, _ in good), images, bad)


def open_source(path: str | Path) -> Source:
    """Return the fields at ``path``: a dataset, there or at a URL, or a folder of the competition's PNG files.

    Raises:
        ImageError: If there is nothing at ``path``, or it is a folder without fields.
        FormatError: If it is a damaged dataset.
    """
    folder = Path(path)
    if "://" not in str(path) and folder.is_dir() and not (folder / "dataset.json").exists():
        return KaggleFolderSource(folder)
    return DatasetSource(open_dataset(path))


def refuse_enlarging(have: int, want: int, *, where: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if images of ``have`` pixels are to be shown at ``want``."""
    if have < want:
        raise ImageError(
            f"{where} has {have} px; the model sees {want} px, and detail cannot be invented.",
            hint="Give the images at their original size, or use a model of a smaller size.",
        )
