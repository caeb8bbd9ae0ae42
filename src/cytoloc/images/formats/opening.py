"""From a path to an open image: the reader is chosen by the file's name and must agree with its content."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
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

IMAGE_SUFFIXES: Final = tuple(_KINDS)
"""The ends of names of files that :func:`open_image` reads."""


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Open an image file, whatever microscope wrote it, and close it at the end of the block.

    TIFF, OME-TIFF, ImageJ's TIFF (also gzipped), PNG and JPEG need the core alone; CZI, LIF, ND2 and OME-Zarr the
    extra ``formats``. Whatever goes wrong in the block while planes are read names the file, too.

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
        image = _OPENERS[kind](path)
        try:
            if not image.scenes:
                raise ImageError(f"{path} holds no image: it is truncated or empty.", hint="Copy it again.")
            yield image
        finally:
            image.close()


def _czi(path: Path) -> ImageFile:
    _require("aicspylibczi", path)
    from cytoloc.images.formats.czi import CziFile

    return CziFile(path)


def _bioio(module: str) -> Callable[[Path], ImageFile]:
    """Return what opens a file by the ``Reader`` of a plugin of bioio."""

    def opener(path: Path) -> ImageFile:
        plugin = _require(module, path)
        from cytoloc.images.formats.vendor import BioioFile

        return BioioFile(path, plugin.Reader(str(path)))

    return opener


def _require(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{path} needs {error.name} to be read.", hint=installing("formats")) from error


_OPENERS: Final[dict[str, Callable[[Path], ImageFile]]] = {
    "PNG": PlainFile,
    "JPEG": PlainFile,
    "TIFF": TiffFile,
    "gzip": TiffFile,
    "CZI": _czi,
    "LIF": _bioio("bioio_lif"),
    "ND2": _bioio("bioio_nd2"),
    "OME-Zarr": _bioio("bioio_ome_zarr"),
}
