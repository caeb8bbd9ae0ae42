"""From a path to an open image: the reader is chosen by the file's name and must agree with its content."""

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
}
"""The end of a file's name and what it must be."""

_LIBRARIES: Final = {"CZI": "aicspylibczi", "LIF": "bioio_lif", "ND2": "bioio_nd2", "OME-Zarr": "bioio_ome_zarr"}
"""The library of each kind that needs one."""

IMAGE_SUFFIXES: Final = tuple(_KINDS)
"""The ends of names of files that :func:`open_image` reads."""


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Open an image file, whatever microscope wrote it, and close it at the end of the block.

    CZI, LIF, ND2 and OME-Zarr need the extra ``formats``; TIFF, OME-TIFF, ImageJ's TIFF (also gzipped), PNG and JPEG do
    not. Errors in the block, while planes are read, name the file too.

    Args:
        path: A file, or the folder of an OME-Zarr, whose name ends in one of :data:`IMAGE_SUFFIXES`.

    Raises:
        ImageError: If it is missing, truncated, damaged, too large, not what its name says, or of an unknown kind.
        MissingExtraError: If the libraries for its kind are not installed.
    """
    suffix = next((end for end in _KINDS if path.name.lower().endswith(end)), None)
    if suffix is None:
        raise ImageError(
            f"{path} is of no kind that cytoloc reads.", hint=f"It reads {', '.join(_KINDS)}: export it as OME-TIFF."
        )
    kind = _KINDS[suffix]
    with decoding(path):
        if kind != "OME-Zarr":
            with path.open("rb") as stream:
                refuse_other_kind(stream.read(16), path, kind=kind)
        image = _opened(kind, path)
        try:
            if not image.scenes:
                raise ImageError(f"{path} holds no image: it is truncated or empty.", hint="Copy it again.")
            yield image
        finally:
            image.close()


def _opened(kind: str, path: Path) -> ImageFile:
    """Return the open file, by a library of the extra ``formats`` if its kind needs one."""
    if kind not in _LIBRARIES:
        return TiffFile(path) if kind in ("TIFF", "gzip") else PlainFile(path)
    try:
        library: Any = importlib.import_module(_LIBRARIES[kind])
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{path} needs {error.name} to be read.", hint=installing("formats")) from error
    if kind == "CZI":
        from cytoloc.images.formats.czi import CziFile

        return CziFile(path)
    from cytoloc.images.formats.vendor import BioioFile

    return BioioFile(path, library.Reader(str(path)))
