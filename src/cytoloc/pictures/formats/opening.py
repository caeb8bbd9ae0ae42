"""From a path to an open picture: the reader is chosen by the file's name and must agree with its content."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cytoloc.errors import ImageError, MissingExtraError, installing
from cytoloc.pictures.decoding import decoding, refuse_other_kind
from cytoloc.pictures.formats.plain import PlainPicture
from cytoloc.pictures.formats.scene import Picture
from cytoloc.pictures.formats.tiff import TiffPicture

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

SUFFIXES: Final = tuple(_KINDS)
"""The ends of names of files that :func:`open_picture` reads."""


@contextmanager
def open_picture(path: Path) -> Iterator[Picture]:
    """Open a picture file, whatever microscope wrote it, and close it at the end of the block.

    TIFF, OME-TIFF, ImageJ's TIFF (also gzipped), PNG and JPEG need the core alone; CZI, LIF, ND2 and OME-Zarr the
    extra ``formats``. Whatever goes wrong in the block while planes are read names the file, too.

    Args:
        path: A file, or the folder of an OME-Zarr, whose name ends in one of :data:`SUFFIXES`.

    Raises:
        ImageError: If it is missing, truncated, damaged, too large, not what its name says, or of an unknown kind.
        MissingExtraError: If the libraries for its kind are not installed.
    """
    suffix = next((end for end in _KINDS if path.name.lower().endswith(end)), None)
    if suffix is None:
        raise ImageError(
            f"{path} is of no kind that cytoloc reads.", way_out=f"It reads {', '.join(_KINDS)}: export it as OME-TIFF."
        )
    kind = _KINDS[suffix]
    with decoding(path):
        if kind != "OME-Zarr":
            with path.open("rb") as stream:
                refuse_other_kind(stream.read(16), path, kind=kind)
        picture = _OPENERS[kind](path)
        try:
            if not picture.scenes:
                raise ImageError(f"{path} holds no picture: it is truncated or empty.", way_out="Copy it again.")
            yield picture
        finally:
            picture.close()


def _czi(path: Path) -> Picture:
    _require("aicspylibczi", path)
    from cytoloc.pictures.formats.czi import CziPicture

    return CziPicture(path)


def _bioio(module: str) -> Callable[[Path], Picture]:
    """Return what opens a file by the ``Reader`` of a plugin of bioio."""

    def opener(path: Path) -> Picture:
        plugin = _require(module, path)
        from cytoloc.pictures.formats.vendor import BioioPicture

        return BioioPicture(path, plugin.Reader(str(path)))

    return opener


def _require(module: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{path} needs {error.name} to be read.", way_out=installing("formats")) from error


_OPENERS: Final[dict[str, Callable[[Path], Picture]]] = {
    "PNG": PlainPicture,
    "JPEG": PlainPicture,
    "TIFF": TiffPicture,
    "gzip": TiffPicture,
    "CZI": _czi,
    "LIF": _bioio("bioio_lif"),
    "ND2": _bioio("bioio_nd2"),
    "OME-Zarr": _bioio("bioio_ome_zarr"),
}
