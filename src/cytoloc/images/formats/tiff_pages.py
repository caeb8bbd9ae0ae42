"""Pages of TIFF files: whether they are whole, what their samples are, and their pixels."""

from __future__ import annotations

import logging
import struct
import threading
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytoloc.errors import ImageError
from cytoloc.images.decoding import truncated

_WHITE_IS_ZERO: Final = 0
_BLACK_IS_ZERO: Final = 1
_RGB: Final = 2
_PALETTE: Final = 3
_YCBCR: Final = 6
"""Photometric interpretations (tag 262). Microscopes write palettes from black to the color of a stain."""

_INKS_AND_COLORS: Final = {
    4: "a transparency mask",
    5: "the inks of a printer (CMYK)",
    6: "luminance and color differences (YCbCr)",
    8: "CIE L*a*b* colors",
    9: "ICC L*a*b* colors",
    10: "ITU L*a*b* colors",
    32803: "raw data of a color sensor (a Bayer pattern)",
    32844: "logarithmic luminance (LogL)",
    32845: "logarithmic colors (LogLuv)",
    34892: "raw data of a color sensor",
}
"""Photometric interpretations that are not intensities of stains, in words."""

_ALPHA: Final = frozenset({1, 2})
"""Extra samples (tag 338) that are a transparency."""

_OLD_JPEG: Final = 6
_JPEG: Final = frozenset({6, 7})
_JPEG_2000: Final = frozenset({33003, 33004, 33005, 34712})
_ENDED: Final = frozenset({7}) | _JPEG_2000
"""Compressions (tag 259) whose decoders ignore missing data, and whose data end with the marker FF D9."""

_COMMON: Final = frozenset({1, 5, 7, 8, 32773, 32946, 50000})
"""Compressions whose decoders do not crash on damaged data: none, LZW, JPEG, deflate, PackBits and Zstandard."""

_COMPLAINTS: Final = threading.local()
"""Errors that tifffile has logged in this thread since it last opened a file, after which it continues."""


class _Listener(logging.Handler):
    """Collects the errors that tifffile logs when tags or pages of a truncated file are missing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Record an error."""
        if record.levelno >= logging.ERROR:
            vars(_COMPLAINTS).setdefault("messages", []).append(record.getMessage())


logging.getLogger("tifffile").addHandler(_Listener())


def forget_complaints() -> None:
    """Forget the errors that tifffile has logged in this thread."""
    _COMPLAINTS.messages = []


def refuse_complaints(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if tifffile has logged that pages or tags are missing.

    Complaints about a description that does not fit the pages are ignored: tifffile then returns the pages as they are.
    """
    for message in _COMPLAINTS.messages:
        if " series " not in message:
            reason = (message.partition("> ")[2] or message).rstrip(".")
            if "offset" in reason or "corrupt" in reason:
                raise truncated(path, reason)
            raise ImageError(f"{path} could not be read: {reason}.", hint="Export it as OME-TIFF.")


def refuse_endless(file: Any, path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if the list of pages is a loop, or leads past the end of the file.

    tifffile would follow a loop until the memory is full.
    """
    tiff, handle = file.tiff, file.filehandle

    def number(place: int, layout: str) -> int:
        """Return the number at a position of the file; 0 after its end."""
        handle.seek(place)
        content = handle.read(struct.calcsize(layout))
        return int(struct.unpack(layout, content)[0]) if len(content) == struct.calcsize(layout) else 0

    # The offset of the first page is in the header, after 4 bytes, or after 8 bytes in BigTIFF.
    offset, seen = number(8 if tiff.version == 43 else 4, tiff.offsetformat), set[int]()
    while offset:
        if offset in seen:
            raise ImageError(f"{path} is damaged: its list of pages is a loop.", hint="Copy the file again.")
        if offset >= handle.size:
            raise truncated(path, f"page {len(seen) + 1} is at byte {offset}, but the file has {handle.size}")
        seen.add(offset)
        tags = number(offset, tiff.tagnoformat)
        offset = number(offset + tiff.tagnosize + tags * tiff.tagsize, tiff.offsetformat)


def refuse_part_of_stack(file: Any, path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if an ImageJ stack that lists only its first page has lost planes.

    ImageJ writes the planes of large stacks one after the other and lists only the first. A file with one page that
    ends after this page is no such stack, even if it still has the description of one: it was split from it.
    """
    page = file.pages.first
    if not file.is_imagej or not page.is_final or len(file.pages) > 1:
        return
    used = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
    used += [tag.valueoffset + tag.valuebytecount for tag in page.tags]
    used.append(page.offset + file.tiff.tagnosize + len(page.tags) * file.tiff.tagsize + file.tiff.offsetsize)
    size, behind = file.filehandle.size, max(used)
    planes = int((file.imagej_metadata or {}).get("images", 1))
    if behind + 8 < size < page.dataoffsets[0] + planes * page.nbytes:
        raise truncated(
            path, f"it states {planes} planes, but ends after {(size - page.dataoffsets[0]) // page.nbytes}"
        )


def refuse_cut(file: Any, page: Any, number: int, path: Path) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if data of a plane are missing in a way that its decoder would ignore.

    Args:
        file: The open TIFF file.
        page: The page with the plane.
        number: The number of the plane, for error messages.
        path: The file, for error messages.
    """
    handle, keyframe = file.filehandle, page.keyframe
    whole = f"plane {number + 1} is incomplete"
    for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if length == 0 or start + length > handle.size:
            raise truncated(path, whole)
        if keyframe.compression in _ENDED:
            # Every strip or tile must have an end marker, and pass a strict JPEG decoder.
            handle.seek(start)
            segment = handle.read(length)
            if b"\xff\xd9" not in segment[-4:]:
                raise truncated(path, whole)
            if keyframe.compression in _JPEG and keyframe.bitspersample == 8:
                # Tables that all strips share precede the data of the strip.
                tables = (keyframe.jpegtables or b"")[:-2]
                try:
                    simplejpeg.decode_jpeg(tables + segment[2:] if tables else segment, "GRAY", strict=True)
                except ValueError as error:
                    raise truncated(path, f"{whole}: {error}") from error


def is_common(page: Any) -> bool:
    """Return whether a page has a common compression, whose decoder does not crash on damaged data."""
    return int(page.compression) in _COMMON


def sample_names(page: Any) -> tuple[str, ...]:
    """Return the names of the samples of a page by its photometric interpretation and extra samples; empty if unknown.

    Args:
        page: A page of a TIFF file.

    Returns:
        A name for each sample, such as ``("red", "green", "blue", "alpha")``.
    """
    count = int(page.samplesperpixel)
    extra = tuple("alpha" if int(each) in _ALPHA else "" for each in page.extrasamples)[:count]
    colors = page.photometric == _RGB or (page.photometric == _YCBCR and page.compression in _JPEG)
    base: tuple[str, ...] = (
        ("red", "green", "blue") if colors and count >= 3 else ("gray",) if "alpha" in extra else ("",)
    )
    return (*base, *extra) if len(base) + len(extra) == count else (*base, *("",) * count)[:count]


def color_problem(page: Any) -> str:
    """Return why the samples of a page are not intensities; empty if they are."""
    kind = int(page.photometric)
    if kind == _YCBCR and page.compression in _JPEG:
        return ""  # decoded to red, green and blue
    if kind in _INKS_AND_COLORS:
        return f"its pixels are {_INKS_AND_COLORS[kind]}, not intensities of stains"
    if kind not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE):
        return f"the meaning of its pixels (photometric interpretation {kind}) is unknown"
    if kind == _PALETTE and not _is_ramp(page):
        return "it has a color palette that does not increase in brightness"
    if kind == _WHITE_IS_ZERO and np.dtype(page.dtype).kind not in "ub":
        return f"it has inverted {np.dtype(page.dtype)} pixels, which are not supported"
    return ""


def _is_ramp(page: Any) -> bool:
    """Return whether the palette of a page increases in brightness."""
    return page.colormap is not None and bool((np.diff(page.colormap.astype(int)) >= 0).all())


def page_dtype(page: Any) -> np.dtype[Any]:
    """Return the type of the pixels that :func:`page_pixels` returns."""
    return np.dtype(np.uint8) if _few_bits(page) else np.dtype(page.dtype)


def page_pixels(page: Any, keyframe: Any, path: Path) -> NDArray[Any]:
    """Return the pixels of a page, which increase with brightness.

    Args:
        page: The page.
        keyframe: The page with its properties.
        path: The file.

    Returns:
        Pixels of the shape of the page. Pixels of 1 to 7 bits are scaled to 8 bits, as in PNG files.

    Raises:
        ImageError: If pixels are indices of colors that do not increase with brightness.
    """
    if keyframe.compression != _OLD_JPEG:
        return as_intensity(np.asarray(page.asarray()), keyframe, path)
    # The JPEG compression of TIFF 6.0. Pillow reads only colors of this kind.
    handle = page.parent.filehandle
    start, length = (keyframe.tags.get(tag) for tag in (513, 514))
    pixels: NDArray[Any]
    if keyframe.samplesperpixel == 1 and start is not None and length is not None:
        at, count = (int(np.ravel(tag.value)[0]) for tag in (start, length))
        handle.seek(at)
        pixels = imagecodecs.jpeg8_decode(handle.read(count))
    else:
        with Image.open(handle.path if handle.is_file else handle) as image:
            image.seek(page.index)
            pixels = np.asarray(image)
    if pixels.shape[:2] != (keyframe.imagelength, keyframe.imagewidth):
        raise ImageError(f"{path} has an old JPEG page that cannot be read.", hint="Export it as OME-TIFF.")
    return pixels


def as_intensity(pixels: NDArray[Any], page: Any, path: Path) -> NDArray[Any]:
    """Return pixels that increase with brightness; see :func:`page_pixels`."""
    few = _few_bits(page)
    if few:
        pixels = pixels.astype(np.uint8)
    # Without the tag, black is 0, as libtiff assumes.
    if page.photometric == _WHITE_IS_ZERO and 262 in page.tags:
        if pixels.dtype.kind != "u":
            raise ImageError(
                f"{path} has inverted {pixels.dtype} pixels, which are not supported.", hint="Export it as gray."
            )
        pixels = np.asarray((1 << (few or page.bitspersample)) - 1 - pixels, pixels.dtype)
    if page.photometric == _PALETTE:
        if not _is_ramp(page):
            raise ImageError(
                f"{path} has a color palette that does not increase in brightness.",
                hint="Export it as gray with 8 or 16 bits.",
            )
        return pixels
    if few:
        levels = np.round(np.arange(1 << few) * (255 / ((1 << few) - 1))).astype(np.uint8)
        pixels = np.asarray(levels[pixels], np.uint8)
    return pixels


def _few_bits(page: Any) -> int:
    """Return the number of bits of a pixel if it is less than 8; otherwise 0."""
    bits = page.bitspersample
    most = max(bits) if isinstance(bits, tuple) else int(bits)
    return most if most < 8 and np.dtype(page.dtype).kind in "ub" else 0


def open_tiff(source: Any) -> Any:
    """Open a TIFF file with tifffile, without the other files of its set."""
    try:
        return tifffile.TiffFile(source, _multifile=False)
    except tifffile.TiffFileError as error:
        if "corrupted IFD" in str(error):
            raise EOFError("its list of tags is incomplete") from error
        raise
