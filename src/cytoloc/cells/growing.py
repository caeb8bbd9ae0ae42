"""Cells from nuclei: pieces of cells are joined, and cells grow into the stained cytoplasm around them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytoloc._typing import BoolArray, Float32Array, UInt8Array
from cytoloc.cells.labels import border_numbers, kept_labels
from cytoloc.cells.measures import cells_of_nuclei, overlaps
from cytoloc.errors import MissingExtraError, installing

GROW_UM: Final = 15.0
"""Largest distance by which cells grow, in micrometers."""

NUCLEUS_UM2: Final = 15.0
"""Area below which a nucleus inside the field is dust, in square micrometers: a disc of 4.4 µm."""

HOLE_UM2: Final = 30.0
"""Area below which a hole of a cell is filled, in square micrometers."""

_PIECE: Final = 0.2
"""Share of a nucleus from which two pieces of a cell that share it are one cell."""

_STAINED: Final = 0.3
"""Share of a nucleus of the second segmentation that must be in the mask of the nuclear stain."""

_CONVEX: Final = 0.85
"""Solidity from which two touching pieces of a nucleus are one nucleus."""

_BARE: Final = 1.4
"""Area of a cell, in areas of its nuclei, below which it may be part of another cell."""

_SURROUNDED: Final = 0.5
"""Share of the surroundings of such a cell that the other cell needs."""

_DIM: Final = 0.6
"""Share of Otsu's threshold from which a pixel is cytoplasm. Otsu's threshold separates the center of cells from thin
edges; this value was chosen by eye on four fields of the Human Protein Atlas."""


def cytoplasm(planes: UInt8Array, *, pixel_um: float) -> Float32Array:
    """Return the brightness of the cytoplasm: the maximum of its stains, smoothed, each scaled by its percentile 99.5.

    Args:
        planes: The stains of the cytoplasm, uint8 of shape ``(channels, height, width)``.
        pixel_um: Pixel size, in micrometers.

    Returns:
        float32 of shape ``(height, width)``, about 0 to 255.
    """
    whites = np.maximum(np.percentile(planes[:, ::2, ::2], 99.5, axis=(1, 2)), 1)
    bright: NDArray[Any] = (planes * (255 / whites[:, None, None])).max(axis=0).clip(0, 255).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(bright, (0, 0), 0.8 / pixel_um), np.float32)


def complete_nuclei(
    nuclei: NDArray[np.int32], others: NDArray[np.int32], mask: BoolArray, *, pixel_um: float
) -> NDArray[np.int32]:
    """Return nuclei that are completed by a second segmentation, and by a mask of the nuclear stain.

    Nuclei that only the second segmentation has are added if they are stained; touching pieces are joined if they form
    a convex shape. Then nuclei grow over the mask. Patches of the mask without a nucleus are added too.

    Args:
        nuclei: Numbers of nuclei.
        others: Numbers of nuclei of the second segmentation.
        mask: Which pixels are nuclear.
        pixel_um: Pixel size, in micrometers.

    Returns:
        Numbers of all nuclei, without gaps. Nuclei below :data:`NUCLEUS_UM2` that do not touch the border are removed.
    """
    watershed = skimage_module("segmentation").watershed
    shared = overlaps(others, nuclei)
    covered = 1 - shared[:, 0] / np.maximum(shared.sum(axis=1), 1)
    stained = np.bincount(others[mask], minlength=len(shared)) >= _STAINED * shared.sum(axis=1)
    missing = np.where((stained & (covered < _PIECE))[others] & (nuclei == 0), others, 0).astype(np.int32)
    missing = _joined_pieces(missing)
    whole = np.where(missing > 0, missing + nuclei.max(initial=0), nuclei).astype(np.int32)
    patches, count = ndimage.label(mask)
    marked = np.zeros(count + 1, bool)
    marked[np.unique(patches[whole > 0])] = True
    whole = np.where((patches > 0) & ~marked[patches], patches + whole.max(initial=0), whole).astype(np.int32)
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    whole = watershed(-depth, whole, mask=mask | (whole > 0)).astype(np.int32)
    areas = np.bincount(whole.ravel()) * pixel_um**2
    at_border = np.zeros(len(areas), bool)
    at_border[border_numbers(whole)] = True
    return kept_labels(whole, (areas >= NUCLEUS_UM2) | (at_border & (areas > NUCLEUS_UM2 / 4)))


def _joined_pieces(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return labels in which touching objects are one if their union is convex, the most convex pair first."""
    labels = labels.copy()
    while True:
        pairs: set[tuple[int, int]] = set()
        # Pieces can be one or two pixels apart.
        for step in (1, 2, 3):
            for one, other in ((labels[step:], labels[:-step]), (labels[:, step:], labels[:, :-step])):
                touching = (one != other) & (one > 0) & (other > 0)
                low, high = np.minimum(one, other)[touching], np.maximum(one, other)[touching]
                pairs.update(zip(low.tolist(), high.tolist(), strict=True))
        best = (0.0, (0, 0))
        for pair in pairs:
            # The solidity is the share of an object in its convex hull.
            points = np.argwhere(np.isin(labels, pair)).astype(np.int32)
            hull = np.zeros(labels.shape, np.uint8)
            cv2.fillConvexPoly(hull, cv2.convexHull(points[:, ::-1]), 1)
            best = max(best, (len(points) / max(int(hull.sum()), 1), pair))
        if best[0] < _CONVEX:
            return labels
        labels[labels == best[1][1]] = best[1][0]


def grow_cells(
    nuclei: NDArray[np.int32],
    pieces: NDArray[np.int32],
    bright: Float32Array | None,
    *,
    pixel_um: float,
    grow_um: float = GROW_UM,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the cells of nuclei.

    Pieces that share a nucleus become one cell. A nucleus outside all pieces becomes a cell. A piece without a nucleus
    is removed if it does not touch the border, where the nucleus of a cell can be outside the field. Then cells grow
    into bright pixels by a watershed, over the area of removed pieces too.

    Args:
        nuclei: Numbers of nuclei, without gaps.
        pieces: Numbers of cells or pieces of cells, such as a network found them.
        bright: The brightness of the cytoplasm; None: cells do not grow.
        pixel_um: Pixel size, in micrometers.
        grow_um: Largest distance by which cells grow, in micrometers.

    Returns:
        Numbers of cells and of nuclei, without gaps, from top to bottom. Each nucleus is inside one cell.

    Raises:
        MissingExtraError: If scikit-image is not installed.
    """
    watershed = skimage_module("segmentation").watershed
    shared = overlaps(nuclei, pieces)
    areas = shared.sum(axis=1)
    same = np.arange(shared.shape[1])
    for nucleus in range(1, len(shared)):
        touched = np.flatnonzero(shared[nucleus, 1:] >= max(_PIECE * areas[nucleus], 1)) + 1
        for piece in touched[1:]:
            same[same == same[piece]] = same[touched[0]]
    cells = same[pieces].astype(np.int32)
    home = cells_of_nuclei(cells, nuclei)
    kept = np.zeros(cells.max(initial=0) + 1, bool)
    kept[border_numbers(cells)] = kept[home[home > 0]] = True
    kept[0] = False
    removed = cells > 0
    cells[~kept[cells]] = 0
    removed &= cells == 0
    # A nucleus outside all cells is a cell. All pixels of a nucleus are in its cell.
    homeless = np.flatnonzero(home[1:] == 0) + 1
    home[homeless] = cells.max(initial=0) + 1 + np.arange(len(homeless))
    inside = nuclei > 0
    cells[inside] = home[nuclei[inside]]
    if bright is not None and cells.any():
        gray = bright.clip(0, 255).astype(np.uint8)
        _, light = cv2.threshold(gray, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        # OpenCV returns the largest dark value. The middle between the means of both classes is stable.
        means = [cv2.mean(gray, mask=np.asarray(part, np.uint8))[0] for part in (1 - light, light)]
        threshold = sum(means) / 2
        stained: NDArray[Any] = ((bright > _DIM * threshold) | removed).astype(np.uint8)
        # Thin bridges between cells are not cytoplasm.
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        stained = cv2.morphologyEx(stained, cv2.MORPH_OPEN, disc)
        near = ndimage.distance_transform_edt(cells == 0) * pixel_um <= grow_um
        area = ((stained > 0) & near) | (cells > 0)
        cells = watershed(-bright, cells, mask=area).astype(np.int32)
    cells = _merged_rims(cells, nuclei)
    cells = _without_holes(cells, pixel_um=pixel_um)
    order, places = np.unique(cells, return_index=True)
    rank = np.zeros(order.max(initial=0) + 1, np.int32)
    rank[order[np.argsort(places)][order[np.argsort(places)] > 0]] = np.arange(1, (order > 0).sum() + 1)
    return rank[cells], nuclei


def _merged_rims(cells: NDArray[np.int32], nuclei: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return cells in which a nucleus with hardly any cytoplasm is part of the cell that surrounds it."""
    areas, inner = np.bincount(cells.ravel()), np.bincount(cells[nuclei > 0], minlength=cells.max(initial=0) + 1)
    cells = cells.copy()
    boxes = ndimage.find_objects(cells)
    for number in np.flatnonzero(areas < _BARE * inner):
        if number == 0 or boxes[number - 1] is None:
            continue
        place = tuple(slice(max(part.start - 2, 0), part.stop + 2) for part in boxes[number - 1])
        own = (cells[place] == number).astype(np.uint8)
        around = np.bincount(cells[place][(cv2.dilate(own, np.ones((5, 5), np.uint8)) > 0) & (own == 0)])
        if around.size > 1 and around[1:].max() >= _SURROUNDED * around.sum():
            cells[place][own > 0] = around[1:].argmax() + 1
    return cells


def skimage_module(name: str) -> Any:
    """Return a module of scikit-image.

    Args:
        name: The name of the module, such as ``"segmentation"``.

    Raises:
        MissingExtraError: If scikit-image is not installed.
    """
    try:
        return import_module(f"skimage.{name}")
    except ImportError as error:
        raise MissingExtraError(
            "Segmentation needs scikit-image, which is not installed.", hint=installing("cells")
        ) from error


def _without_holes(cells: NDArray[np.int32], *, pixel_um: float) -> NDArray[np.int32]:
    """Return cells without holes: small patches of background that touch one cell only."""
    patches, count = ndimage.label(cells == 0)
    if not count:
        return cells
    areas = np.bincount(patches.ravel())
    small = areas * pixel_um**2 < HOLE_UM2
    small[0] = False
    small[border_numbers(patches)] = False
    holes = small[patches]
    if not holes.any():
        return cells
    grown: NDArray[Any] = cv2.dilate(cells.astype(np.float32), np.ones((3, 3), np.uint8))
    highest = ndimage.maximum(grown, patches, index=np.arange(count + 1))
    others = np.where(grown > 0, grown, np.inf)
    least = np.where(cells > 0, cells, np.inf)
    least = cv2.erode(least.astype(np.float32), np.ones((3, 3), np.uint8))
    lowest = ndimage.minimum(np.minimum(others, least), patches, index=np.arange(count + 1))
    single = (highest == lowest) & small
    filled = cells.copy()
    inside = single[patches] & holes
    filled[inside] = highest[patches[inside]].astype(np.int32)
    return filled
