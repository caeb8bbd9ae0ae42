"""Images of single cells, cut from fields."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import UInt8Array
from cytoloc.cells.labels import Labels
from cytoloc.cells.measures import Bounds, MeasuredCell
from cytoloc.choices import check_type, refuse_unknown
from cytoloc.errors import ImageError, SettingsError
from cytoloc.images.scale import resize

Kept = Literal["all", "nucleated", "single"]
"""Which cells are kept: all, those with a nucleus, or those with exactly one nucleus."""

Border = Literal["keep", "drop"]

WINDOW_UM: Final = 51.2
"""Edge of the window of a cell, in micrometers: 640 px of 0.08 µm, as SubCell takes them."""


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """How cells are cut from fields.

    The window of a cell is a square around the middle of its bounding rectangle. It is black outside the field, and
    scaled to the size of the dataset.

    Attributes:
        size: Edge length of the images in the dataset of cells, in pixels.
        window_um: Edge length of the window, in micrometers. Default: 51.2, unless ``window_px`` is given.
        window_px: Edge length of the window, in pixels of the field, instead of ``window_um``.
        masked: Whether pixels outside the cell are black.
        margin_px: Pixels of the field around the cell that are not black.
        kept: Which cells are kept: ``"all"``, ``"nucleated"`` (with a nucleus) or ``"single"`` (with exactly one).
            Default: those with a nucleus; all cells of label images that the user gives. The label images of the
            dataset keep all cells.
        border: Whether cells that touch the border of the field are kept: ``"keep"`` or ``"drop"``.
        turned: Whether the long axis of each cell is turned to be horizontal.

    Raises:
        ArgumentTypeError: If a value has the wrong type.
        SettingsError: If a value is out of range, or both ``window_um`` and ``window_px`` are given.

    Examples:
        >>> CropOptions(size=640, window_px=640).window(0.08, called="a field")  # for SubCell
        640
    """

    size: int = 256
    window_um: float | None = None
    window_px: int | None = None
    masked: bool = True
    margin_px: int = 3
    kept: Kept | None = None
    border: Border = "keep"
    turned: bool = False

    def __post_init__(self) -> None:
        for name, kinds in (("size", int), ("margin_px", int), ("masked", bool), ("turned", bool)):
            check_type(getattr(self, name), kinds, argument=name)
        check_type(self.window_um, (int, float, type(None)), argument="window_um")
        check_type(self.window_px, (int, type(None)), argument="window_px")
        if self.kept is not None:
            refuse_unknown(self.kept, get_args(Kept), argument="kept")
        refuse_unknown(self.border, get_args(Border), argument="border")
        if not 32 <= self.size <= 2048:
            raise SettingsError(f"`size` is {self.size}, which is out of range.", hint="Choose from 32 to 2048 px.")
        if self.window_um is not None and self.window_px is not None:
            raise SettingsError("`window_um` and `window_px` both give the window.", hint="Give one of them.")
        if self.window_um is not None and not 5 <= self.window_um <= 1000:
            raise SettingsError(f"`window_um` is {self.window_um}, which is out of range.", hint="Choose 5 to 1000 µm.")
        if self.window_px is not None and not 16 <= self.window_px <= 8192:
            raise SettingsError(
                f"`window_px` is {self.window_px}, which is out of range.", hint="Choose 16 to 8192 px."
            )
        if not 0 <= self.margin_px <= 100:
            raise SettingsError(f"`margin_px` is {self.margin_px}, which is out of range.", hint="Choose 0 to 100 px.")

    @property
    def note(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self)

    def window(self, pixel_um: float | None, *, called: str) -> int:
        """Return the edge length of the window, in pixels of the field.

        Args:
            pixel_um: Pixel size of the field, in micrometers.
            called: The field, for messages.

        Returns:
            The edge length.

        Raises:
            ImageError: If the window is given in micrometers and the pixel size is unknown, or the window is too small.
        """
        if self.window_px is not None:
            return self.window_px
        if pixel_um is None:
            raise ImageError(
                f"The pixel size of {called} is unknown, but the window of cells is given in micrometers.",
                hint="Give `pixel_um`.",
            )
        edge = round((self.window_um or WINDOW_UM) / pixel_um)
        if edge < 16:
            raise ImageError(
                f"The window of cells in {called} has {edge} px of {pixel_um:g} µm.",
                hint="Check `pixel_um`, or give a larger `window_um`.",
            )
        return edge

    def keeps(self, cell: MeasuredCell) -> bool:
        """Return whether a cell is kept.

        Args:
            cell: The cell.
        """
        if self.border == "drop" and "at border" in cell.flags:
            return False
        if self.kept == "all" or cell.nuclei is None:
            return True
        return cell.nuclei == 1 if self.kept == "single" else cell.nuclei > 0


class Crop(NamedTuple):
    """The image of a cell.

    Attributes:
        image: uint8 of shape ``(channels, size, size)``.
        is_whole: Whether the whole cell is in the window.
    """

    image: UInt8Array
    is_whole: bool


def crop_cell(image: UInt8Array, labels: Labels, cell: MeasuredCell, options: CropOptions, *, window_px: int) -> Crop:
    """Cut a cell from its field.

    Args:
        image: The field, uint8 of shape ``(channels, height, width)``.
        labels: The cells of the field.
        cell: The cell.
        options: How it is cut.
        window_px: Edge length of the window, in pixels of the field.

    Returns:
        The image of the cell.
    """
    bounds, margin, edge = cell.bounds, options.margin_px, window_px
    # The middle of the bounding rectangle, as SubCell's authors choose it.
    middle = ((bounds.top + bounds.bottom) // 2, (bounds.left + bounds.right) // 2)
    planes: NDArray[Any]
    if options.turned:
        # The long axis of the cell becomes horizontal.
        turn: NDArray[Any] = cv2.getRotationMatrix2D((float(middle[1]), float(middle[0])), -cell.axis, 1.0)
        turn[:, 2] += edge / 2 - np.array([middle[1], middle[0]], np.float64)
        planes = np.stack([cv2.warpAffine(plane, turn, (edge, edge), flags=cv2.INTER_LINEAR) for plane in image])
        own = (labels == cell.number).astype(np.uint8)
        mask: NDArray[Any] = cv2.warpAffine(own, turn, (edge, edge), flags=cv2.INTER_NEAREST)
        # Turning changes the number of pixels slightly.
        is_whole = int(mask.sum()) >= 0.97 * cell.area
        if options.masked:
            planes = planes * _grown(mask, margin)
    else:
        top, left = middle[0] - edge // 2, middle[1] - edge // 2
        if not options.masked:
            bounds = Bounds(top, top + edge, left, left + edge)
        height, width = labels.shape
        # What can be seen: the part of the window that is in the field and, if the cell is masked, near the cell.
        rows = slice(max(top, 0, bounds.top - margin), min(top + edge, height, bounds.bottom + margin))
        columns = slice(max(left, 0, bounds.left - margin), min(left + edge, width, bounds.right + margin))
        mask = (labels[rows, columns] == cell.number).astype(np.uint8)
        planes = np.zeros((len(image), edge, edge), image.dtype)
        seen = planes[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        if options.masked:
            np.multiply(image[:, rows, columns], _grown(mask, margin), out=seen)
        else:
            seen[:] = image[:, rows, columns]
        is_whole = int(mask.sum()) == cell.area
    size = options.size
    return Crop(np.asarray(resize(planes, size, size, enlarge=True), np.uint8), is_whole)


def _grown(mask: NDArray[np.uint8], margin: int) -> NDArray[Any]:
    """Return a mask that is dilated by a margin."""
    return cv2.dilate(mask, np.ones((2 * margin + 1,) * 2, np.uint8)) if margin else mask
