"""Zarr hierarchies in a folder or a zip file: attributes of groups, arrays, and counts of missing chunks."""

from __future__ import annotations

import itertools
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tensorstore
from numpy.typing import NDArray

from cytoloc.errors import ImageError

ZARR_SUFFIXES: Final = (".zarr", ".zarr.zip", ".ozx")
"""Suffixes of folders and zip files with a Zarr hierarchy."""

_METADATA: Final = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr group or array, whatever its name, or a zip file has the suffix of one."""
    zipped = path.name.lower().endswith(ZARR_SUFFIXES[1:]) and path.is_file()
    return zipped or any((path / name).is_file() for name in _METADATA)


def split_zarr(path: Path) -> tuple[Path, str]:
    """Return the folder or zip file of a Zarr hierarchy, and the place in it that a path leads to.

    >>> split_zarr(Path("screen/p.zarr/A/1/0"))
    (PosixPath('screen/p.zarr'), 'A/1/0')
    """
    parts = path.parts
    for count in range(1, len(parts) + 1):
        if parts[count - 1].lower().endswith(ZARR_SUFFIXES):
            return Path(*parts[:count]), "/".join(parts[count:])
    return path, ""


class ZarrStore:
    """A Zarr hierarchy of version 2 or 3.

    Args:
        root: Its folder or zip file.

    Raises:
        ImageError: If there is no such folder, or the zip file has no hierarchy.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._zip: zipfile.ZipFile | None = None
        self._prefix = ""
        if root.is_file():
            self._zip = zipfile.ZipFile(root)
            self._names = set(self._zip.namelist())
            tops = {name.split("/")[0] for name in self._names}
            # Some programs zip the folder, and others its content.
            if not tops & set(_METADATA) and len(tops) == 1:
                self._prefix = f"{tops.pop()}/"
        elif not root.is_dir():
            raise ImageError(f"{root} does not exist.", hint="Check the path.")

    def close(self) -> None:
        """Close the zip file, if there is one."""
        if self._zip is not None:
            self._zip.close()

    def text(self, name: str) -> bytes | None:
        """Return the content of a file in the hierarchy; None if it does not exist."""
        if self._zip is None:
            file = self.root / name
            return file.read_bytes() if file.is_file() else None
        return self._zip.read(self._prefix + name) if self._prefix + name in self._names else None

    def has(self, name: str) -> bool:
        """Return whether a file exists in the hierarchy."""
        return (self.root / name).is_file() if self._zip is None else self._prefix + name in self._names

    def attributes(self, place: str) -> dict[str, Any] | None:
        """Return the attributes of a group; None if it does not exist. OME's attributes are on the first level.

        Args:
            place: The path of the group; empty for the root.

        Returns:
            The attributes. In OME-Zarr 0.5 they are inside of ``ome``.
        """
        before = f"{place}/" if place else ""
        found = self.text(f"{before}zarr.json")
        if found is not None:
            values = json.loads(found).get("attributes", {})
            return {**values, **values.get("ome", {})}
        found = self.text(f"{before}.zattrs")
        if found is None:
            return {} if self.has(f"{before}.zgroup") or self.is_array(place) else None
        values = json.loads(found)
        return {**values, **values.get("ome", {})}

    def is_array(self, place: str) -> bool:
        """Return whether there is an array at a path, and not a group."""
        before = f"{place}/" if place else ""
        return self.has(f"{before}.zarray") or b'"array"' in (self.text(f"{before}zarr.json") or b"")

    def array(self, place: str) -> ZarrArray:
        """Open an array.

        Args:
            place: The path of the array.

        Returns:
            The array.

        Raises:
            ImageError: If there is no array, or it uses a codec that is not supported.
        """
        before = f"{place}/" if place else ""
        if not self.is_array(place):
            raise ImageError(f"{self.root} has no array {place}.", hint="Copy or export it again.")
        driver = "zarr" if self.has(f"{before}.zarray") else "zarr3"
        metadata = json.loads(self.text(f"{before}{'zarr.json' if driver == 'zarr3' else '.zarray'}") or b"{}")
        base = self.root.absolute().as_uri()
        kvstore: Any = f"{base}/{before}"
        if self._zip is not None:
            kvstore = {"driver": "zip", "base": base, "path": self._prefix + before}
        try:
            pixels = tensorstore.open({"driver": driver, "kvstore": kvstore}, open=True, read=True).result()
        except ValueError as error:
            reason = str(error).partition(" [")[0].rpartition(": ")[2]
            raise ImageError(
                f"{self.root}: the array {place} cannot be read: {reason}.",
                hint="Export it with the compressor blosc, zlib, gzip or zstd, and without filters.",
            ) from error
        return ZarrArray(self, before, pixels, metadata)


@dataclass(frozen=True)
class ZarrArray:
    """An open array.

    Attributes:
        store: The hierarchy.
        before: The path of the array, which ends in a slash.
        pixels: The array of tensorstore.
        metadata: The content of its ``.zarray`` or ``zarr.json``.
    """

    store: ZarrStore
    before: str
    pixels: Any
    metadata: dict[str, Any]

    def read(self, place: Sequence[int | slice]) -> NDArray[Any]:
        """Return a part of the array."""
        result: NDArray[Any] = self.pixels[tuple(place)].read().result()
        return result

    def chunks(self, place: Sequence[int | slice]) -> dict[str, bool]:
        """Return the files of the chunks of a part of the array, and whether each exists.

        Args:
            place: Whole axes as ``slice(None)``, and positions on other axes.

        Returns:
            Whether the file exists, by its name.
        """
        counts = [
            range(-(-length // size)) if isinstance(at, slice) else [at // size]
            for at, length, size in zip(place, self.pixels.shape, self._chunk_shape, strict=True)
        ]
        names = (self.before + self._key(key) for key in itertools.product(*counts))
        return {name: self.store.has(name) for name in names}

    @cached_property
    def _chunk_shape(self) -> list[int]:
        if "chunks" in self.metadata:
            return list(self.metadata["chunks"])
        return list(self.metadata["chunk_grid"]["configuration"]["chunk_shape"])

    def _key(self, key: Sequence[int]) -> str:
        if "chunks" in self.metadata:
            return str(self.metadata.get("dimension_separator", ".")).join(map(str, key)) or "0"
        encoding = self.metadata.get("chunk_key_encoding", {"name": "default"})
        default = encoding["name"] == "default"
        separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
        return str(separator).join([*(["c"] if default else []), *map(str, key)]) or "0"
