"""Sources of fields to predict: arrays, datasets and folders of image files, read in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cytoloc._typing import Float32Array, IntArray, UInt8Array
from cytoloc.choices import Resample, check_type
from cytoloc.dataset.quarantine import Rejected, refuse_unprintable, rejected
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ArgumentTypeError, ImageError, SettingsError
from cytoloc.images.decoding import located
from cytoloc.images.depth import DepthRule, all_to_8_bit, native_pixels
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.parallel import in_order
from cytoloc.predict.model_info import CellImages, ModelInfo
from cytoloc.predictions import CELL_COLUMNS

Images = NDArray[Any] | torch.Tensor | Dataset | str | Path
"""Inputs of a model: images in memory, a dataset, or a path."""


class FieldBatch(NamedTuple):
    """A batch of fields, with the fields before it that could not be read.

    Attributes:
        ids: The ids of the images.
        images: uint8 of shape ``(n, channels, size, size)``; n can be 0.
        rejected: The fields that could not be read, with the reasons.
        pixel_um: The size of a pixel of each image, in micrometers; NaN where it is unknown. None: unknown for all.
        scaled: Whether an image was scaled down.
    """

    ids: tuple[str, ...]
    images: UInt8Array
    rejected: tuple[Rejected, ...] = ()
    pixel_um: Float32Array | None = None
    scaled: bool = False


class Source(Protocol):
    """A source of fields."""

    @property
    def name(self) -> str:
        """The name of the source, for messages and provenance."""

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels, in order."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the fields."""

    def part(self, start: int, stop: int) -> Source:
        """Return the source of the fields from one position to another."""

    def batches(self, size: int, length: int, resample: Resample = "area") -> Iterator[FieldBatch]:
        """Yield all fields in order, in batches of at most ``length``, with images of ``size`` pixels."""


class ArraySource:
    """Images in memory.

    16-bit and float images are converted to 8 bits by the percentile rule of the Human Protein Atlas, each image by its
    own intensity range. Larger images are scaled down by averaging areas.

    Args:
        images: Images of shape ``(n, channels, h, w)`` or ``(channels, h, w)``, integers or floats.
        channels: The names of the channels, in order.

    Raises:
        ImageError: If the array has another shape or pixel type.
    """

    name = "the array"

    def __init__(self, images: NDArray[Any], *, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self._images = native_pixels(images[None] if images.ndim == 3 else images)
        count = len(channels)
        if self._images.ndim != 4 or self._images.shape[1] != count or 0 in images.shape:
            raise ImageError(
                f"`images` must have the shape (n, {count}, h, w) or ({count}, h, w), not {images.shape}.",
                hint=f"Stack the channels in the order {', '.join(channels)}, or give `channels` in the order used.",
            )
        if images.dtype.kind not in "iuf":
            raise ImageError(f"`images` has {images.dtype} pixels.", hint="Give integers or floats.")
        self.ids = tuple(str(number) for number in range(len(self._images)))

    @property
    def edge_px(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self._images.shape[2], self._images.shape[3]

    def part(self, start: int, stop: int) -> ArraySource:
        """Return the source of the images from one position to another, which keep their ids."""
        some = copy(self)
        some._images, some.ids = self._images[start:stop], self.ids[start:stop]
        return some

    def batches(self, size: int, length: int, resample: Resample = "area") -> Iterator[FieldBatch]:
        """Yield the images with 8 bits, in batches.

        Args:
            size: Edge length to scale images to, in pixels.
            length: Maximum number of images per batch.
            resample: How larger images are scaled down.

        Yields:
            The batches.

        Raises:
            ImageError: If an image is smaller than ``size``, is not square, or has values that are not finite.
        """
        for start in range(0, len(self.ids), length):
            ids, found = self.ids[start : start + length], []
            for name, planes in zip(ids, self._images[start : start + length], strict=True):
                with located(f"image {name}"):
                    eight = all_to_8_bit(list(planes), DepthRule(), called=self.channels).image
                    found.append(scale_field(eight, Scaling(size=size, resample=resample)).image)
            yield FieldBatch(ids, np.stack(found), scaled=self._images.shape[-1] != size)


class DatasetSource:
    """All fields of a dataset, or some of its rows."""

    def __init__(self, dataset: Dataset, rows: IntArray | None = None) -> None:
        self.dataset = dataset
        self.rows = np.arange(len(dataset)) if rows is None else rows
        self.name = str(dataset.path)
        self.channels = dataset.channels

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the fields."""
        every = self.dataset.ids
        return tuple(every[row] for row in self.rows)

    def part(self, start: int, stop: int) -> DatasetSource:
        """Return the source of the rows from one position to another."""
        return DatasetSource(self.dataset, self.rows[start:stop])

    def batches(self, size: int, length: int, resample: Resample = "area") -> Iterator[FieldBatch]:
        """Yield the fields in batches, scaled to ``size`` if the dataset has another size.

        Args:
            size: Edge length to scale images to, in pixels.
            length: Maximum number of fields per batch.
            resample: How larger images are scaled down.

        Yields:
            The batches.

        Raises:
            ImageError: If the dataset has images smaller than ``size``.
        """
        refuse_enlarging(self.dataset.size, size, where=str(self.dataset.path))
        ids, pixel_um = self.ids, self.dataset.pixel_sizes(size)[self.rows]
        for start in range(0, len(self.rows), length):
            some = slice(start, start + length)
            images = [
                scale_field(image, Scaling(size=size, resample=resample)).image
                for image in self.dataset.read(self.rows[some])
            ]
            yield FieldBatch(ids[some], np.stack(images), pixel_um=pixel_um[some], scaled=self.dataset.size != size)


class KaggleFolderSource:
    """All fields in a folder of ``{Id}_{red,green,blue,yellow}.png`` or ``.tif``, in order of id.

    The channels are those for which there are files. A folder can lack a color completely.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = str(folder)
        self.found = find_kaggle_fields(folder)
        self.channels = self.found.channels
        self.ids = tuple(sorted(self.found))

    def part(self, start: int, stop: int) -> KaggleFolderSource:
        """Return the source of the fields from one position to another."""
        some = copy(self)
        some.ids = self.ids[start:stop]
        return some

    def batches(self, size: int, length: int, resample: Resample = "area") -> Iterator[FieldBatch]:
        """Yield the fields in batches, decoded and scaled to ``size``; fields that cannot be read are rejected.

        Args:
            size: Edge length to scale images to, in pixels.
            length: Maximum number of fields per batch.
            resample: How larger images are scaled down.

        Yields:
            The batches.
        """
        edges: set[int] = set()

        def load(name: str) -> UInt8Array | Rejected:
            """Return the image of a field, or the reason why it cannot be read."""
            try:
                refuse_unprintable(name)
                image = read_kaggle_field(self.folder, name, self.found[name], channels=self.channels)
                refuse_enlarging(min(image.shape[1:]), size, where=f"field {name}")
                edges.add(image.shape[1])
                with located(f"field {name}"):
                    return scale_field(image, Scaling(size=size, resample=resample)).image
            except ImageError as error:
                return rejected(name, error)

        results = zip(self.ids, in_order(load, self.ids), strict=True)
        while some := list(islice(results, length)):
            good = [(name, image) for name, image in some if not isinstance(image, Rejected)]
            shape = (len(good), len(self.channels), size, size)
            images = np.concatenate([image for _, image in good]).reshape(shape) if good else np.empty(shape, np.uint8)
            bad = tuple(result for _, result in some if isinstance(result, Rejected))
            yield FieldBatch(tuple(name for name, _ in good), images, bad, scaled=bool(edges - {size}))


def fields_of_public_datasets(sources: Sequence[Source], ids: Sequence[str]) -> int | None:
    """Return how many fields come from the Kaggle competition or the Human Protein Atlas.

    Args:
        sources: The sources of the fields.
        ids: The ids of the fields to count.

    Returns:
        The number of fields. None if some are images in memory, whose origin is unknown.
    """
    wanted, count = set(ids), 0
    for source in sources:
        if isinstance(source, DatasetSource):
            origins = source.dataset.fields["source"].to_list()
            every = source.dataset.ids
            count += sum(origins[row] in ("kaggle", "hpa") and every[row] in wanted for row in source.rows)
        elif isinstance(source, KaggleFolderSource):
            count += len(wanted.intersection(source.ids))
        else:
            return None
    return count


def training_facts(info: ModelInfo, sources: Sequence[Source], ids: Sequence[str]) -> dict[str, Any]:
    """Return how many of some fields a model was trained on, as far as it is known.

    Args:
        info: The properties of the model.
        sources: The sources of the fields.
        ids: The ids of the fields.

    Returns:
        The number ``fields_trained_on``, if the model lists its training fields. If it was trained on whole public
        datasets, also ``trained_on_datasets``, and the number of fields that may be in them.
    """
    seen = len(info.trained_on.intersection(ids))
    # A network that others trained does not list its fields.
    is_listed = bool(seen) or not (info.trained_on_datasets or "adopted" in info.provenance)
    facts: dict[str, Any] = {"fields_trained_on": seen} if is_listed else {}
    if info.trained_on_datasets:
        facts["trained_on_datasets"] = list(info.trained_on_datasets)
        public = fields_of_public_datasets(sources, ids)
        if public is not None:
            facts["fields_maybe_trained_on"] = public
    return facts


def open_source(path: str | Path) -> Source:
    """Open a source of fields: a dataset (folder or URL), or a folder of image files of the 2018 Kaggle competition.

    Args:
        path: The folder or URL.

    Returns:
        The source.

    Raises:
        ImageError: If the path is a folder without fields.
        FormatError: If there is no dataset, or it is damaged.
    """
    folder = Path(path)
    if "://" not in str(path) and folder.is_dir() and not (folder / "dataset.json").exists():
        return KaggleFolderSource(folder)
    return DatasetSource(open_dataset(path))


def sources_of(
    images: Images | Sequence[Dataset | str | Path], channels: Sequence[str], *, given: bool
) -> list[Source]:
    """Return what a user gives to a model as sources of batches.

    Args:
        images: An array, a tensor, a dataset, a path, or a list of datasets or paths.
        channels: The names of the channels of an array, in order.
        given: Whether the user gave ``channels``, which only arrays need.

    Returns:
        The sources.

    Raises:
        ArgumentTypeError: If ``images`` has another type.
        SettingsError: If channels are given for a dataset or folder.
    """
    if isinstance(images, torch.Tensor):
        on_cpu = images.detach().cpu()
        images = (on_cpu.float() if on_cpu.dtype == torch.bfloat16 else on_cpu).numpy()
    if isinstance(images, np.ndarray):
        return [ArraySource(images, channels=tuple(channels))]
    if given:
        raise SettingsError(
            "`channels` names the channels of an array, but a dataset or folder states its own channels.",
            hint="Remove `channels`.",
        )
    several = [images] if isinstance(images, Dataset | str | Path) else images
    if not isinstance(several, list | tuple) or not all(isinstance(one, Dataset | str | Path) for one in several):
        raise ArgumentTypeError(
            "`images` must be a NumPy array, a torch tensor, a dataset, a path, or a list of datasets or paths, not"
            f" {type(images).__name__}.",
            hint="Stack several images into one array: numpy.stack(images).",
        )
    return [DatasetSource(one) if isinstance(one, Dataset) else open_source(one) for one in several]


def open_sources(inputs: Sequence[str | Path]) -> list[Source]:
    """Open the sources of fields that a user gives.

    Args:
        inputs: Datasets (folders or URLs), folders of image files, patterns such as ``plates/*.dataset``, and ``.txt``
            files with one of these per line.

    Returns:
        The sources, in order.

    Raises:
        ImageError: If a folder has no fields, or a pattern matches nothing.
        FormatError: If a dataset does not exist or is damaged.
    """
    check_type(inputs, (list, tuple), argument="inputs")
    sources: list[Source] = []
    for each in inputs:
        text = str(each)
        if text.endswith(".txt") and "://" not in text and Path(each).is_file():
            lines = Path(each).read_text(encoding="utf-8").splitlines()
            sources += open_sources([line.strip() for line in lines if line.strip()])
        elif "://" not in text and any(mark in text for mark in "*?[") and not Path(each).exists():
            found = sorted(glob(text))  # noqa: PTH207  a pattern can be absolute
            if not found:
                raise ImageError(f"No file matches the pattern {text}.", hint="Check the path.")
            sources += [open_source(path) for path in found]
        else:
            sources.append(open_source(each))
    return sources


def cells_in(sources: Sequence[Source], ids: Sequence[str]) -> pl.DataFrame | None:
    """Return the table of the predicted cells; None if the fields are not cells.

    Args:
        sources: The sources of the cells.
        ids: The ids of the cells, in order.

    Returns:
        A table with the columns of ``Predictions.cells``.
    """
    if not all(isinstance(each, DatasetSource) and each.dataset.of_cells for each in sources):
        return None
    tables = [each.dataset.fields.select("id", *CELL_COLUMNS) for each in sources if isinstance(each, DatasetSource)]
    rows = pl.DataFrame({"id": list(ids)}).join(pl.concat(tables), on="id", how="left", maintain_order="left")
    return rows.select(pl.col(name).cast(kind) for name, kind in CELL_COLUMNS.items())


CELL_SCALE: Final = 1.25
"""Factor between pixel sizes from which images of cells are refused. SubCell was trained with scales of 80 to 120 %."""


def refuse_other_cells(source: Source, needed: CellImages | None, *, size: int) -> None:
    """Raise if a model needs images of single cells, and a source has other images.

    Args:
        source: The source.
        needed: The images that the model needs; None: any.
        size: Edge length of the images, in pixels.

    Raises:
        ImageError: If the images are whole fields, have another or an unknown pixel size, or are not masked.
    """
    if needed is None:
        return
    scale = f"{size} px of {needed.pixel_um:g} µm"
    window = f"--size {size} --window-um {size * needed.pixel_um:g}"
    hint = f"Make a dataset of cells with `cytoloc segment INPUT {window} --out cells`."
    if isinstance(source, ArraySource):
        if source.edge_px != (size, size):
            raise ImageError(
                f"The images have {source.edge_px[1]} x {source.edge_px[0]} px, but the model needs cells of {scale}.",
                hint=f"Give masked cells of {size} px that were not scaled.",
            )
        return
    if not isinstance(source, DatasetSource) or not source.dataset.of_cells:
        raise ImageError(f"{source.name} has whole fields, but the model needs single cells of {scale}.", hint=hint)
    found = source.dataset.pixel_sizes(size)[source.rows]
    if np.isnan(found).any():
        raise ImageError(
            f"{source.name} has {int(np.isnan(found).sum())} cells of unknown pixel size, but the model needs {scale}.",
            hint="Segment the fields again, and give `pixel_um`.",
        )
    off = np.maximum(found / needed.pixel_um, needed.pixel_um / found)
    if off.size and off.max() > CELL_SCALE:
        worst = found[int(off.argmax())]
        raise ImageError(
            f"{source.name} has cells of {worst:.3g} µm per pixel, but the model needs {scale}.", hint=hint
        )
    if needed.is_masked and not source.dataset.fields["is_masked"].gather(source.rows).all():
        raise ImageError(f"{source.name} has cells that are not masked, but the model needs masked cells.", hint=hint)


def refuse_enlarging(have: int, want: int, *, where: str) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if images of ``have`` pixels are smaller than ``want``."""
    if have < want:
        raise ImageError(
            f"{where} has {have} px, but the model needs {want} px, and enlarging adds no detail.",
            hint="Give the images at their original size, or use a model for smaller images.",
        )
