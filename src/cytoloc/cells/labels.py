"""Label images: pixels with the number of their cell or nucleus, 0 for background."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from cytoloc.errors import ImageError
from cytoloc.files import replace_file
from cytoloc.images.formats.opening import open_image

Labels = NDArray[np.integer[Any]]
"""Numbers of objects, shape ``(height, width)``, 0 for background."""

FEW_SPECKS: Final = 3
"""Number of separate parts from which an image with a single value is taken for a mask instead of one object."""


class CellLabels(NamedTuple):
    """The cells and nuclei of a field.

    Attributes:
        cells: The number of the cell at each pixel.
        nuclei: The number of the nucleus at each pixel, which need not be the number of its cell. None if unknown.
    """

    cells: Labels
    nuclei: Labels | None = None


def read_labels(path: Path, *, channel: int = 0) -> Labels:
    """Read a label image: TIFF, PNG, or a group of labels in an OME-Zarr such as ``a.zarr/labels/cells``.

    Args:
        path: The file.
        channel: The channel of the file.

    Returns:
        int64 of shape ``(height, width)``. Numbers are as in the file and can have gaps.

    Raises:
        ImageError: If the file is missing or damaged, has several colors, negative or fractional numbers, or is a mask
            of many objects without numbers.
    """
    with open_image(path) as image:
        scene = image.scenes[0]
        if channel >= len(scene.channels):
            raise ImageError(
                f"{path} has {len(scene.channels)} channels, so there is no channel {channel}.",
                hint="Give the label image of cells first, then that of nuclei.",
            )
        if path.suffix.lower() in (".png", ".jpg", ".jpeg") and len(scene.channels) > 1:
            raise ImageError(
                f"{path} is a colored image, not a label image.", hint="Save the numbers of the objects as gray values."
            )
        plane = image.plane(0, channel=channel)
    return as_labels(plane, called=str(path))


def as_labels(plane: NDArray[Any], *, called: str, can_be_mask: bool = True) -> Labels:
    """Return pixels as labels.

    Args:
        plane: Shape ``(height, width)``.
        called: The name of the image, for messages.
        can_be_mask: Whether to refuse masks, in which all objects have the same number.

    Returns:
        int64 of the same shape.

    Raises:
        ImageError: If the pixels are not numbers of objects.
    """
    if plane.dtype.kind not in "biuf" or plane.ndim != 2:
        raise ImageError(f"{called} has {plane.dtype} pixels of shape {plane.shape}.", hint="Give integers in 2D.")
    if plane.dtype.kind == "f" and not (np.isfinite(plane).all() and (plane == np.floor(plane)).all()):
        raise ImageError(f"{called} has fractional pixels, not numbers of objects.", hint="Save labels as integers.")
    labels = plane.astype(np.int64)
    if labels.min(initial=0) < 0:
        raise ImageError(f"{called} has the negative number {labels.min()}.", hint="Use 0 for background.")
    values = np.unique(labels[::4, ::4])
    if can_be_mask and len(values[values > 0]) == 1 and len(np.unique(labels)) <= 2:
        parts = ndimage.label(labels)[1]
        if parts >= FEW_SPECKS:
            raise ImageError(
                f"{called} is a mask: {parts} separate objects have the same number {labels.max()}.",
                hint="Number the objects first, such as with scipy.ndimage.label or skimage.measure.label.",
            )
    return labels


def consecutive(labels: Labels) -> tuple[NDArray[np.int32], Labels]:
    """Return labels numbered from 1 without gaps, and the original number of each new one, beginning with 0.

    Examples:
        >>> consecutive(np.array([[0, 7], [4_000_000_000, 7]]))[1].tolist()
        [0, 7, 4000000000]
    """
    largest = int(labels.max(initial=0))
    if largest <= labels.size:
        # Counting is faster than sorting all pixels.
        present = np.bincount(labels.ravel(), minlength=largest + 1) > 0
        present[0] = True
        if present.all():
            return labels.astype(np.int32, copy=False), np.arange(largest + 1)
        rank = (np.cumsum(present) - 1).astype(np.int32)
        return rank[labels], np.flatnonzero(present).astype(np.int64)
    numbers, places = np.unique(labels, return_inverse=True)
    if numbers[0] != 0:
        numbers, places = np.concatenate([[0], numbers]), places + 1
    return places.reshape(labels.shape).astype(np.int32), numbers.astype(np.int64)


def kept_labels(labels: NDArray[np.int32], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return labels with some of the objects, numbered from 1 without gaps.

    Args:
        labels: The labels.
        kept: Whether each object is kept, by its number. Background, the number 0, stays background.

    Returns:
        int32 of the same shape.

    Examples:
        >>> kept_labels(np.array([[0, 1], [2, 3]], np.int32), np.array([True, True, False, True])).tolist()
        [[0, 1], [0, 2]]
    """
    objects = kept.copy()
    objects[0] = False
    return (np.cumsum(objects) * objects).astype(np.int32)[labels]


def border_numbers(labels: Labels) -> Labels:
    """Return the numbers of the objects that touch the border, and 0 if background does."""
    return np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))


def scale_labels(labels: NDArray[np.int32], height: int, width: int) -> NDArray[np.int32]:
    """Scale labels to another size, with smooth outlines.

    A pixel gets the number whose smoothed mask is largest there, if this is at least one half. Touching objects stay
    in contact.

    Args:
        labels: int32 of shape ``(h, w)``.
        height: New height, in pixels.
        width: New width, in pixels.

    Returns:
        int32 of shape ``(height, width)``.
    """
    have = labels.shape
    if have == (height, width):
        return labels
    scaled = np.zeros((height, width), np.int32)
    best = np.full((height, width), 0.5, np.float32)
    rows, columns = height / have[0], width / have[1]
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        # Two pixels of margin contain the smoothed edge.
        top, bottom = max(box[0].start - 2, 0), min(box[0].stop + 2, have[0])
        left, right = max(box[1].start - 2, 0), min(box[1].stop + 2, have[1])
        mask: NDArray[Any] = (labels[top:bottom, left:right] == number).astype(np.float32)
        soft = cv2.GaussianBlur(mask, (0, 0), 0.7, borderType=cv2.BORDER_REPLICATE)
        place = (slice(round(top * rows), round(bottom * rows)), slice(round(left * columns), round(right * columns)))
        shape = (place[1].stop - place[1].start, place[0].stop - place[0].start)
        if 0 in shape:
            continue
        large = cv2.resize(soft, shape, interpolation=cv2.INTER_LINEAR)
        wins = large > best[place]
        best[place][wins] = large[wins]
        scaled[place][wins] = number
    return scaled


def labels_file(folder: Path, field: str) -> Path:
    """Return the path of the label image of a field in a dataset of cells."""
    return folder / f"{quote(field, safe=' ()+,=@')}.tif"


def write_labels(path: Path, labels: CellLabels) -> None:
    """Write or replace a label image: a TIFF file with cells, and then nuclei if they are known.

    Args:
        path: The file.
        labels: The labels.
    """
    planes = [plane for plane in labels if plane is not None]
    largest = max(int(plane.max(initial=0)) for plane in planes)
    kind = np.uint16 if largest < 2**16 else np.uint32
    content = io.BytesIO()
    stack = np.stack([plane.astype(kind) for plane in planes])
    tifffile.imwrite(content, stack, photometric="minisblack", compression="zlib", metadata={"axes": "CYX"})
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.getvalue())


def read_cell_labels(path: Path) -> CellLabels:
    """Read a label image that :func:`write_labels` wrote.

    Args:
        path: The file.

    Returns:
        The labels.

    Raises:
        ImageError: If the file is missing or damaged.
    """
    with open_image(path) as image:
        planes = [
            as_labels(image.plane(0, channel=channel), called=str(path), can_be_mask=False)
            for channel in range(len(image.scenes[0].channels))
        ]
    return CellLabels(planes[0], planes[1] if len(planes) > 1 else None)
