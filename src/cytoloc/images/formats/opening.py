"""Opening of image files. The reader is chosen by the file name, which must agree with the content."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from cytoloc.errors import ImageError, MissingExtraError, installing
from cytoloc.images.decoding import decoding, refuse_other_kind
from cytoloc.images.formats.contained import ContainedFile, Opener
from cytoloc.images.formats.czi import CziFile
from cytoloc.images.formats.lif import LifFile
from cytoloc.images.formats.nd2 import Nd2File
from cytoloc.images.formats.oif import OifFile
from cytoloc.images.formats.ome import OmeSetFile, find_set
from cytoloc.images.formats.plain import PlainFile
from cytoloc.images.formats.rearranged import Rearranged
from cytoloc.images.formats.scene import ImageFile
from cytoloc.images.formats.tiff import TiffFile
from cytoloc.images.formats.zarr.ome_zarr import OmeZarrFile
from cytoloc.images.formats.zarr.store import is_zarr, split_zarr

_KINDS: Final[dict[str, str]] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".tif.gz": "gzip",
    ".tiff.gz": "gzip",
    ".czi": "CZI",
    ".lif": "LIF",
    ".nd2": "ND2",
    ".oib": "OIB",
    ".oif": "OIF",
    ".zarr": "OME-Zarr",
    ".zarr.zip": "OME-Zarr",
    ".ozx": "OME-Zarr",
}
"""The kind of file for each suffix."""

_LIBRARIES: Final = {
    "CZI": "czifile",
    "LIF": "liffile",
    "ND2": "nd2",
    "OIB": "oiffile",
    "OIF": "oiffile",
}
"""The library for each kind of file that needs one."""

IMAGE_SUFFIXES: Final = tuple(_KINDS)
"""Suffixes of the files that :func:`open_image` can open."""


@contextmanager
def open_image(path: Path, *, axes: str | None = None, alone: bool = False) -> Iterator[ImageFile]:
    """Open an image file of any microscope, and close it at the end of the block.

    CZI, LIF, ND2, OIB and OIF files need the extra ``formats``. TIFF, OME-TIFF and ImageJ's TIFF (also gzipped),
    OME-Zarr, PNG and JPEG files do not. Errors that occur in the block also name the file.

    Args:
        path: A file, or the folder of an OME-Zarr, whose name ends in one of :data:`IMAGE_SUFFIXES`; or the path of a
            group in an OME-Zarr, such as ``plate.zarr/B/3/0``.
        axes: What the axes are, instead of what the file says; see :class:`~.rearranged.Rearranged`.
        alone: Whether only planes in this file are read if it is one of an OME-TIFF set. Otherwise an image is read
            from all files of the set, and belongs to the file that has its first plane.

    Yields:
        The open file.

    Raises:
        ImageError: If the file is missing, truncated, damaged, too large, or of an unknown or unexpected kind.
        MissingExtraError: If the libraries for the kind of file are not installed.
    """
    suffix = next((end for end in _KINDS if path.name.lower().endswith(end)), None)
    if suffix is None and (split_zarr(path)[1] or is_zarr(path)):
        suffix = ".zarr"
    if suffix is None:
        raise ImageError(
            f"{path} is not of a supported kind.", hint=f"Export it as OME-TIFF, or give {', '.join(_KINDS)}."
        )
    kind = _KINDS[suffix]
    with decoding(path):
        if kind != "OME-Zarr":
            with path.open("rb") as stream:
                refuse_other_kind(stream.read(16), path, kind=kind)
        image = _opened(kind, path, alone=alone)
        try:
            # A file of an OME-TIFF set has no scenes if its images begin in other files.
            if not image.scenes and kind not in ("TIFF", "gzip"):
                raise ImageError(f"{path} contains no image.", hint="Open it in the program that wrote it.")
            yield image if axes is None else Rearranged(image, axes, path)
        finally:
            image.close()


def _opened(kind: str, path: Path, *, alone: bool) -> ImageFile:
    """Return the open file. Kinds of one vendor and TIFF with rare compressions are read in a process of their own."""
    if kind == "OME-Zarr":
        return OmeZarrFile(path)
    if kind in _LIBRARIES:
        try:
            importlib.import_module(_LIBRARIES[kind])
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"Reading {path} needs {error.name}, which is not installed.", hint=installing("formats")
            ) from error
        return ContainedFile(path, _VENDORS[kind])
    if kind not in ("TIFF", "gzip"):
        return PlainFile(path)
    opener = partial(open_tiff_file, alone=alone)
    tiff = opener(path)
    if tiff.common:
        return tiff
    tiff.close()
    return ContainedFile(path, opener)


def open_tiff_file(path: Path, *, alone: bool) -> TiffFile | OmeSetFile:
    """Open a TIFF file, or a file of an OME-TIFF set with its images.

    Args:
        path: The file.
        alone: Whether only planes in this file are read, even if it is one of a set.

    Returns:
        The open file.

    Raises:
        ImageError: If the file is damaged.
    """
    tiff = TiffFile(path)
    try:
        images = find_set(tiff.file, path)
        if images is None:
            return tiff
    except BaseException:
        tiff.close()
        raise
    tiff.close()
    return OmeSetFile(path, images, alone=alone)


_VENDORS: Final[dict[str, Opener]] = {"CZI": CziFile, "LIF": LifFile, "ND2": Nd2File, "OIB": OifFile, "OIF": OifFile}
"""The reader of each kind of file of one vendor. They import their libraries when they open a file."""


def missing_chunks(image: ImageFile) -> tuple[int, int]:
    """Return the number of chunks of the planes read so far that are missing, and of all their chunks.

    Args:
        image: An open file.

    Returns:
        The numbers; both are 0 for files without chunks.
    """
    return image.missing_chunks() if isinstance(image, OmeZarrFile) else (0, 0)
