"""Methods of segmentation: label images of the user, the network InstanSeg, and a classical method."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.cells.classical import nuclear_mask, split_nuclei
from cytoloc.cells.growing import complete_nuclei, cytoplasm, grow_cells
from cytoloc.cells.labels import CellLabels, Labels, read_labels, scale_labels
from cytoloc.channels import NUCLEUS, PROTEIN
from cytoloc.choices import check_type
from cytoloc.errors import ImageError, MissingExtraError, SettingsError, installing
from cytoloc.images.quality import LIMITS, measure
from cytoloc.images.scale import resize

WORKING_UM: Final = 0.8
"""Pixel size at which InstanSeg segments, in micrometers.

The authors recommend 0.5. There, large cells of the Human Protein Atlas are split: of 3,767 cells in 74 fields of the
2018 Kaggle competition, 31 % had no nucleus. At 0.8 it was 14 % of 2,675.
"""

GRID_UM: Final = 0.4
"""Pixel size at which cells grow, in micrometers. Outlines at full resolution are interpolated."""

NUCLEUS_UM: Final = 15.0
"""Typical diameter of a nucleus, in micrometers."""

LEAST_SPREAD: Final = 8
"""Gray levels that a stain needs between the 1st and 99.9th percentile. A stain with less is noise."""

COARSEST_UM: Final = 1.3
"""Largest pixel size of images that can be segmented, in micrometers. A nucleus is then about ten pixels wide."""


@dataclass(frozen=True)
class FieldImage:
    """A field to segment.

    Attributes:
        id: Its id.
        image: uint8 of shape ``(channels, height, width)``.
        channels: The names of the channels.
        pixel_um: Pixel size in micrometers; None if unknown.
    """

    id: str
    image: UInt8Array
    channels: tuple[str, ...]
    pixel_um: float | None

    def planes(self, *, cytoplasm_only: bool) -> UInt8Array:
        """Return the stains of the cytoplasm: all but protein and nucleus, or the protein if there is no other one.

        Args:
            cytoplasm_only: Whether the nucleus is left out.

        Returns:
            uint8 of shape ``(channels, height, width)``; no channels if there is only a nucleus.
        """
        names = [name for name in self.channels if name not in (PROTEIN, NUCLEUS)]
        names = names or [name for name in self.channels if name == PROTEIN]
        names += [name for name in self.channels if name == NUCLEUS and not cytoplasm_only]
        return self.image[[self.channels.index(name) for name in names]]

    @property
    def nucleus(self) -> UInt8Array | None:
        """The nuclear stain; None if there is none."""
        return self.image[self.channels.index(NUCLEUS)] if NUCLEUS in self.channels else None


class Method(Protocol):
    """A method of segmentation."""

    @property
    def note(self) -> dict[str, Any]:
        """The method and its settings, as JSON values."""

    def running(self) -> AbstractContextManager[None]:
        """Return the context in which fields are segmented, in several threads."""

    def segment(self, field: FieldImage) -> CellLabels:
        """Return the cells and nuclei of a field, in its size.

        Raises:
            ImageError: If the field cannot be segmented.
        """


@dataclass(frozen=True, kw_only=True)
class InstanSeg:
    """Segment nuclei and cells with the network InstanSeg, which takes any channels.

    Nuclei are segmented from the nuclear stain alone, because the network splits nuclei if it also sees microtubules.
    Nuclei grow to the nuclear stain above a local threshold, because the network misses parts of long nuclei. Cells are
    segmented from the nuclear stain and all other stains but the protein. Pieces of a cell with one nucleus are joined,
    and cells grow into stained cytoplasm.

    Attributes:
        weights: The TorchScript file of the authors. Default: it is downloaded once, and its SHA-256 is checked.
        working_um: Pixel size at which the network segments, in micrometers.
        device: The device to compute on: ``"cpu"`` or ``"cuda"``.

    Raises:
        SettingsError: If ``working_um`` is out of range.
    """

    weights: str | Path | None = None
    working_um: float = WORKING_UM
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_type(self.weights, (str, Path, type(None)), argument="weights")
        check_type(self.working_um, (int, float), argument="working_um")
        check_type(self.device, str, argument="device")
        if not 0.2 <= self.working_um <= 2:
            raise SettingsError(
                f"`working_um` is {self.working_um}, which is out of range.", hint="Choose 0.2 to 2 µm."
            )

    @property
    def note(self) -> dict[str, Any]:
        """The method and its settings, as JSON values."""
        from cytoloc.models.instanseg import LICENSE, SHA256

        return {"method": "instanseg", "weights_sha256": SHA256, "license": LICENSE, "working_um": self.working_um}

    @cached_property
    def _network(self) -> Any:
        from cytoloc.models.instanseg import InstanSegNet, fetch_instanseg

        path = Path(self.weights) if self.weights is not None else fetch_instanseg(default_weights())
        return InstanSegNet(path, device=self.device)

    def running(self) -> AbstractContextManager[None]:
        """Return the context in which the weights are loaded, and each thread computes with one core.

        Raises:
            WeightsError: If the weights are missing or are another file.
            FetchError: If they cannot be downloaded.
            MissingExtraError: If torch is not installed.
        """
        return networks_running(lambda: self._network, called="InstanSeg")

    def segment(self, field: FieldImage) -> CellLabels:
        """Return the cells and nuclei of a field, in its size.

        Args:
            field: The field.

        Returns:
            The labels; nuclei are numbered by themselves.

        Raises:
            ImageError: If the pixel size is unknown, or too large.
        """
        pixel_um = known_pixel_um(field)
        height, width = field.image.shape[1:]
        if _is_blank(field):
            return _no_cells(field)
        factor = pixel_um / self.working_um
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        grid_um, grid = _growing_grid(field, pixel_um)
        planes = field.planes(cytoplasm_only=False)
        small = resize(planes, *size, enlarge=True).astype(np.float32)
        nuclei, pieces = (scale_labels(found, *grid) for found in self._network(small))
        nucleus = field.nucleus
        if nucleus is not None:
            alone = small[-1:] if len(planes) > 1 else small
            first = scale_labels(self._network(alone, nuclei_only=True)[0], *grid)
            mask = nuclear_mask(resize(nucleus[None], *grid, enlarge=True)[0], pixel_um=grid_um, nucleus_um=NUCLEUS_UM)
            nuclei = complete_nuclei(first, nuclei, mask, pixel_um=grid_um)
        stains = field.planes(cytoplasm_only=True)
        bright = cytoplasm(resize(stains, *grid, enlarge=True), pixel_um=grid_um) if len(stains) else None
        cells, nuclei = grow_cells(nuclei, pieces, bright, pixel_um=grid_um)
        return enlarged(cells, nuclei, height, width)


@dataclass(frozen=True, kw_only=True)
class Classical:
    """Segment without a network: nuclei by a local threshold, cells by a watershed from the nuclei.

    It needs no weights, but is the weaker method: it merges touching nuclei and misses dim ones more often than
    :class:`InstanSeg`.

    Attributes:
        nucleus_um: Typical diameter of a nucleus, in micrometers.

    Raises:
        SettingsError: If ``nucleus_um`` is out of range.
    """

    nucleus_um: float = NUCLEUS_UM

    def __post_init__(self) -> None:
        check_type(self.nucleus_um, (int, float), argument="nucleus_um")
        if not 3 <= self.nucleus_um <= 60:
            raise SettingsError(f"`nucleus_um` is {self.nucleus_um}, which is out of range.", hint="Choose 3 to 60 µm.")

    @property
    def note(self) -> dict[str, Any]:
        """The method and its settings, as JSON values."""
        return {"method": "classical", "nucleus_um": self.nucleus_um}

    def running(self) -> AbstractContextManager[None]:
        """Return a context that does nothing, because nothing has to be prepared."""
        return nullcontext()

    def segment(self, field: FieldImage) -> CellLabels:
        """Return the cells and nuclei of a field, in its size.

        Args:
            field: The field.

        Returns:
            The labels.

        Raises:
            ImageError: If there is no nuclear stain, or the pixel size is unknown or too large.
        """
        pixel_um = known_pixel_um(field)
        if field.nucleus is None:
            raise ImageError(
                f"{field.id} has no channel {NUCLEUS}, which the classical method needs.", hint="Use InstanSeg instead."
            )
        height, width = field.image.shape[1:]
        if _is_blank(field):
            return _no_cells(field)
        grid_um, grid = _growing_grid(field, pixel_um)
        stains = resize(field.planes(cytoplasm_only=True), *grid, enlarge=True)
        nucleus = resize(field.nucleus[None], *grid, enlarge=True)[0]
        bright = cytoplasm(stains, pixel_um=grid_um) if len(stains) else None
        mask = nuclear_mask(nucleus, pixel_um=grid_um, nucleus_um=self.nucleus_um)
        nuclei = split_nuclei(mask, pixel_um=grid_um, nucleus_um=self.nucleus_um)
        cells, nuclei = grow_cells(nuclei, nuclei, bright, pixel_um=grid_um, grow_um=2 * self.nucleus_um)
        return enlarged(cells, nuclei, height, width)


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """Take the label images of another program.

    Attributes:
        folder: The folder of the label images.
        cells: The path of the label image of the cells below the folder, with ``{id}`` for the id of the field, such as
            ``"{id}_cells.tif"`` or, for OME-Zarr, ``"{id}.zarr/labels/cells"``.
        nuclei: The same for nuclei. Default: nuclei are unknown, and no cell is flagged for its nuclei.

    Raises:
        SettingsError: If a pattern lacks ``{id}``, or the folder does not exist.
    """

    folder: str | Path
    cells: str = "{id}_cells.tif"
    nuclei: str | None = None
    _folder: Path = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_type(self.folder, (str, Path), argument="folder")
        check_type(self.cells, str, argument="cells")
        check_type(self.nuclei, (str, type(None)), argument="nuclei")
        for name, pattern in (("cells", self.cells), ("nuclei", self.nuclei)):
            if pattern is not None and "{id}" not in pattern:
                raise SettingsError(
                    f"`{name}` is {pattern!r}, which does not contain {{id}}.",
                    hint="Write {id} for the id of the field, such as {id}_cells.tif.",
                )
        object.__setattr__(self, "_folder", Path(self.folder))
        if not self._folder.is_dir():
            raise SettingsError(f"The folder {self.folder} of label images does not exist.", hint="Check the path.")

    @property
    def note(self) -> dict[str, Any]:
        """The method and its settings, as JSON values."""
        names = {"method": "labels", "folder": os.path.realpath(self._folder)}
        return {**names, "cells": self.cells, "nuclei": self.nuclei}

    def running(self) -> AbstractContextManager[None]:
        """Return a context that does nothing, because nothing has to be prepared."""
        return nullcontext()

    def segment(self, field: FieldImage) -> CellLabels:
        """Return the cells and nuclei of a field, with the numbers of the label images.

        Args:
            field: The field.

        Returns:
            The labels.

        Raises:
            ImageError: If a label image is missing, has another size than the field, or is not a label image.
        """
        found: list[Labels | None] = []
        for pattern in (self.cells, self.nuclei):
            if pattern is None:
                found.append(None)
                continue
            path = self._folder / pattern.replace("{id}", field.id)
            if not path.exists():
                raise ImageError(
                    f"The label image {path} of field {field.id} does not exist.",
                    hint="Check the folder and the pattern of the label images, and the ids of the fields.",
                )
            labels = read_labels(path)
            if labels.shape != field.image.shape[1:]:
                have, want = labels.shape, field.image.shape[1:]
                raise ImageError(
                    f"{path} has {have[1]} x {have[0]} px, but field {field.id} has {want[1]} x {want[0]} px.",
                    hint="Give label images of the same fields in the same size.",
                )
            found.append(labels)
        cells, nuclei = found
        assert cells is not None  # noqa: S101  the pattern of cells is always given
        return CellLabels(cells, nuclei)


@contextmanager
def networks_running(load: Callable[[], object], *, called: str) -> Iterator[None]:
    """Load the networks of a method, and let each thread compute with one core.

    Args:
        load: A function that loads the networks.
        called: The method, for messages.

    Yields:
        Nothing.

    Raises:
        MissingExtraError: If torch is not installed.
    """
    try:
        from cytoloc.models.devices import one_thread
    except ImportError as error:
        raise MissingExtraError(f"{called} needs torch, which is not installed.", hint=installing("nets")) from error
    # Networks compute once when they are loaded. Several threads would wait for each other on a busy machine.
    with one_thread():
        load()
        yield


def known_pixel_um(field: FieldImage) -> float:
    """Return the pixel size of a field.

    Args:
        field: The field.

    Returns:
        The pixel size, in micrometers.

    Raises:
        ImageError: If it is unknown, or too large to see cells.
    """
    if field.pixel_um is None:
        raise ImageError(
            f"The pixel size of {field.id} is unknown, so the size of its cells is unknown.",
            hint="Give `pixel_um`. Images of the Human Protein Atlas have about 0.08 µm at 2048 px.",
        )
    if field.pixel_um > COARSEST_UM:
        raise ImageError(
            f"{field.id} has pixels of {field.pixel_um:.3g} µm, which are too coarse: cells need {COARSEST_UM:g} µm or"
            " less.",
            hint="Check `pixel_um`, or give images of a higher resolution.",
        )
    return field.pixel_um


def enlarged(cells: NDArray[np.int32], nuclei: NDArray[np.int32], height: int, width: int) -> CellLabels:
    """Return cells and nuclei at full resolution. Pixels of a nucleus outside its cell are removed."""
    whole, inner = scale_labels(cells, height, width), scale_labels(nuclei, height, width)
    inner = np.where(whole > 0, inner, 0)
    return CellLabels(whole, inner)


def default_weights() -> Path:
    """Return where downloaded weights are kept: below ``XDG_CACHE_HOME``, or below ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "cytoloc" / "instanseg-fluorescence-0.1.1.pt"


def _growing_grid(field: FieldImage, pixel_um: float) -> tuple[float, tuple[int, int]]:
    """Return the pixel size at which the cells of a field grow, in micrometers, and the height and width in pixels."""
    grid_um = max(GRID_UM, pixel_um)
    height, width = (round(edge * pixel_um / grid_um) for edge in field.image.shape[1:])
    return grid_um, (height, width)


def _no_cells(field: FieldImage) -> CellLabels:
    """Return the label images of a field without cells."""
    blank = np.zeros(field.image.shape[1:], np.int64)
    return CellLabels(blank, blank)


def _is_blank(field: FieldImage) -> bool:
    """Return whether there is nothing to segment: the nuclear stain, or all stains, are empty or noise."""
    planes = [field.image[field.channels.index(NUCLEUS)]] if NUCLEUS in field.channels else list(field.image)
    found = [measure(plane) for plane in planes]
    return all(each.spread < LEAST_SPREAD or each.sharpness >= LIMITS.noise for each in found)
