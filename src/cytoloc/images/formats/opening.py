"""Opening of image files. The reader is chosen by the file name, which must agree with the content."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cytoloc.errors import ImageError, MissingExtraError, installing
from cytoloc.images.decoding import decoding, refuse_other_kind
from cytoloc.images.formats.plain import PlainFile
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
    ".zarr": "OME-Zarr",
    ".zarr.zip": "OME-Zarr",
    ".ozx": "OME-Zarr",
}
"""The kind of file for each suffix."""

_LIBRARIES: Final = {"CZI": "aicspylibczi", "LIF": "bioio_lif", "ND2": "bioio_nd2"}
"""The library for each kind of file that needs one."""

IMAGE_SUFFIXES: Final = tuple(_KINDS)
"""Suffixes of the files that :func:`open_image` can open."""


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Open an image file of any microscope, and close it at the end of the block.

    CZI, LIF and ND2 files need the extra ``formats``. TIFF, OME-TIFF and ImageJ's TIFF (also gzipped), OME-Zarr, PNG
    and JPEG files do not. Errors that occur in the block also name the file.

    Args:
        path: A file, or the folder of an OME-Zarr, whose name ends in one of :data:`IMAGE_SUFFIXES`; or the path of a
            group in an OME-Zarr, such as ``plate.zarr/B/3/0``.

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
        image = _opened(kind, path)
        try:
            if not image.scenes:
                raise ImageError(
                    f"{path} contains no image, because it is truncated or empty.", hint="Copy the file again."
                )
            yield image
        finally:
            image.close()


def _opened(kind: str, path: Path) -> ImageFile:
    """Return the open file, with a library of the extra ``formats`` if its kind needs one."""
    if kind == "OME-Zarr":
        return OmeZarrFile(path)
    if kind not in _LIBRARIES:
        return TiffFile(path) if kind in ("TIFF", "gzip") else PlainFile(path)
    try:
        library: Any = importlib.import_module(_LIBRARIES[kind])
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Reading {path} needs {error.name}, which is not installed.", hint=installing("formats")
        ) from error
    if kind == "CZI":
        from cytoloc.images.formats.czi import CziFile

        return CziFile(path)
    from cytoloc.images.formats.vendor import BioioFile

    return BioioFile(path, library.Reader(str(path)))


def missing_chunks(image: ImageFile) -> tuple[int, int]:
    """Return the number of chunks of the planes read so far that are missing, and of all their chunks.

    Args:
        image: An open file.

    Returns:
        The numbers; both are 0 for files without chunks.
    """
    return image.missing_chunks() if isinstance(image, OmeZarrFile) else (0, 0)
