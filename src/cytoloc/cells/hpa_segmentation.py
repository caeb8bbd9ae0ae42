"""Segmentation with the networks of HPA-Cell-Segmentation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytoloc.cells.growing import NUCLEUS_UM2, grow_cells, skimage_module
from cytoloc.cells.labels import CellLabels, kept_labels
from cytoloc.cells.methods import FieldImage, enlarged, known_pixel_um, networks_running
from cytoloc.channels import ER, MICROTUBULES, NUCLEUS
from cytoloc.choices import check_type
from cytoloc.errors import ImageError
from cytoloc.files import sha256_of
from cytoloc.images.scale import resize

WORKING_UM: Final = 0.32
"""Pixel size at which the networks segment, in micrometers: a quarter of the resolution of 0.08 µm."""

_INSIDE, _SEED, _BORDER, _LEAST_CELL = 0.4, 0.15, 0.05, 0.22
"""Probabilities of the authors: of the inside of a nucleus, of the seed of a nucleus, of a border, and of a cell."""


@dataclass(frozen=True, kw_only=True)
class HpaSegmentation:
    """Segment with the two networks of HPA-Cell-Segmentation, which were trained on the Human Protein Atlas.

    The files of the authors are pickled modules. They are read as plain data; code in them is not run. The networks are
    those of the authors. The steps from probabilities to cells use their thresholds, but are simpler, so masks differ
    slightly.

    Attributes:
        nuclei: The network of nuclei, ``dpn_unet_nuclei_v1.pth``.
        cells: The network of cells, ``dpn_unet_cell_3ch_v1.pth``, or ``dpn_unet_cell_v2.pth`` if ER was not imaged.
        device: The device to compute on: ``"cpu"`` or ``"cuda"``.
    """

    nuclei: str | Path
    cells: str | Path
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_type(self.nuclei, (str, Path), argument="nuclei")
        check_type(self.cells, (str, Path), argument="cells")
        check_type(self.device, str, argument="device")

    @property
    def note(self) -> dict[str, Any]:
        """The method and its settings, as JSON values."""
        digests = {name: sha256_of(Path(file)) for name, file in (("nuclei", self.nuclei), ("cells", self.cells))}
        return {"method": "hpa", "weights_sha256": digests, "license": "Apache-2.0", "working_um": WORKING_UM}

    @cached_property
    def _networks(self) -> tuple[Any, Any]:
        from cytoloc.models.hpa_unet import HpaUnetRunner

        nuclei, cells = (HpaUnetRunner(Path(file), device=self.device) for file in (self.nuclei, self.cells))
        return nuclei, cells

    def running(self) -> AbstractContextManager[None]:
        """Return the context in which the weights are loaded, and each thread computes with one core.

        Raises:
            WeightsError: If a file is missing, damaged, or of another network.
            MissingExtraError: If torch is not installed.
        """
        return networks_running(lambda: self._networks, called="HPA-Cell-Segmentation")

    def segment(self, field: FieldImage) -> CellLabels:
        """Return the cells and nuclei of a field, in its size.

        Args:
            field: The field.

        Returns:
            The labels.

        Raises:
            ImageError: If nucleus or microtubules are missing, or the pixel size is unknown or too large.
        """
        pixel_um = known_pixel_um(field)
        lacking = [name for name in (MICROTUBULES, NUCLEUS) if name not in field.channels]
        if lacking:
            raise ImageError(f"{field.id} has no channel {lacking[0]}, which the networks need.", hint="Use InstanSeg.")
        height, width = field.image.shape[1:]
        size = (round(height * pixel_um / WORKING_UM), round(width * pixel_um / WORKING_UM))
        planes = {
            name: resize(plane[None], *size, enlarge=True)[0].astype(np.float32) / 255
            for name, plane in zip(field.channels, field.image, strict=True)
        }
        nucleus, black = planes[NUCLEUS], np.zeros(size, np.float32)
        of_nuclei, of_cells = self._networks
        border, inside = of_nuclei(np.stack([nucleus] * 3))
        cell_border, cell_inside = of_cells(np.stack([planes[MICROTUBULES], planes.get(ER, black), nucleus]))
        watershed = skimage_module("segmentation").watershed
        apart = (border + cell_border < 1 - _BORDER) & (border <= _BORDER)
        seeds = ndimage.label(ndimage.binary_erosion((inside > _SEED) & apart))[0]
        nuclei: NDArray[np.int32] = watershed(-inside, seeds, mask=inside > _INSIDE).astype(np.int32)
        nuclei = kept_labels(nuclei, np.bincount(nuclei.ravel()) * WORKING_UM**2 >= NUCLEUS_UM2)
        gray = (cell_inside * 255).astype(np.uint8)
        otsu = cv2.threshold(gray, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 255
        body = (cell_inside > max(_LEAST_CELL, otsu / 2)) | (cell_border > _BORDER)
        pieces = watershed(-cell_inside, nuclei, mask=body | (nuclei > 0)).astype(np.int32)
        cells, nuclei = grow_cells(nuclei, pieces, None, pixel_um=WORKING_UM)
        return enlarged(cells, nuclei, height, width)
