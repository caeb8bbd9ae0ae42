"""OME-Zarr 0.1 to 0.5: images, plates, wells, and the collections of images that bioformats2raw writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import ImageError
from cytoloc.images.decoding import refuse_edges
from cytoloc.images.formats.scene import Scene, names_of, plausible_um, refuse_axes, whole_plane
from cytoloc.images.formats.zarr.store import ZarrArray, ZarrStore, split_zarr

_VERSIONS: Final = ("0.1", "0.2", "0.3", "0.4", "0.5")

_PREFIXES: Final = {
    "yocto": -24, "zepto": -21, "atto": -18, "femto": -15, "pico": -12, "nano": -9, "micro": -6, "milli": -3,
    "centi": -2, "deci": -1, "": 0, "hecto": 2, "kilo": 3, "mega": 6, "giga": 9, "tera": 12, "peta": 15, "exa": 18,
    "zetta": 21, "yotta": 24,
}  # fmt: skip

LENGTHS_UM: Final[dict[str, float]] = {
    **{f"{prefix}{meter}": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items() for meter in ("meter", "metre")},
    "angstrom": 1e-4,
    "inch": 25_400.0,
    "foot": 304_800.0,
    "yard": 914_400.0,
    "mile": 1_609_344_000.0,
    "parsec": 3.0856775814913673e22,
    "micron": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "å": 1e-4,
}
"""Micrometers per unit of length: the UDUNITS names that OME-Zarr allows, and symbols that programs write instead."""


class ZarrField(NamedTuple):
    """An image in an OME-Zarr.

    Attributes:
        place: The path of its group.
        name: Its name as a scene; empty if it is the only one.
        plate: The name of the plate.
        well: The well as the plate names it, such as ``B03``.
        field: The field of the well.
    """

    place: str
    name: str = ""
    plate: str = ""
    well: str = ""
    field: str = ""


class OmeZarrFile:
    """An OME-Zarr in a folder or a zip file. Each image is a scene, as is each field of a plate.

    Args:
        path: The folder or zip file, or the path of a group in it, such as ``plate.zarr/B/3/0``.

    Raises:
        ImageError: If there is no image, metadata are damaged, or an image has unsupported axes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        root, place = split_zarr(path)
        self._store = ZarrStore(root)
        try:
            self._fields = zarr_fields(self._store, place)
            self._images = [_Image(self._store, each, path) for each in self._fields]
        except BaseException:
            self._store.close()
            raise
        self.scenes = tuple(image.scene for image in self._images)
        self._chunks: dict[str, bool] = {}

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:  # noqa: ARG002
        """Return one plane, shape ``(height, width)``. Missing chunks have the fill value, and are counted."""
        image = self._images[scene]
        place = image.place({"c": channel, "z": depth, "t": time})
        self._chunks |= image.array.chunks(place)
        pixels = image.array.read(place)
        return whole_plane(pixels if image.upright else pixels.T, self.scenes[scene], self.path)

    def missing_chunks(self) -> tuple[int, int]:
        """Return the number of chunks of the planes read so far that are missing, and of all their chunks."""
        return sum(not there for there in self._chunks.values()), len(self._chunks)

    def close(self) -> None:
        """Close the file."""
        self._store.close()


class _Image:
    """An image: its array of full resolution, its axes, and its properties."""

    def __init__(self, store: ZarrStore, field: ZarrField, path: Path) -> None:
        attributes = store.attributes(field.place) or {}
        multiscale = attributes["multiscales"][0]
        version = multiscale.get("version", attributes.get("version"))  # some files state none
        if version is not None and version not in _VERSIONS:
            raise ImageError(
                f"{path} has OME-Zarr version {version}; the versions {_VERSIONS[0]} to {_VERSIONS[-1]} can be read.",
                hint="Export it with version 0.5.",
            )
        dataset = multiscale["datasets"][0]
        place = f"{field.place}/{dataset['path']}" if field.place else str(dataset["path"])
        self.array: ZarrArray = store.array(place)
        shape = self.array.pixels.shape
        described = multiscale.get("axes") or list("tczyx"[-len(shape) :])
        axes = [each if isinstance(each, Mapping) else {"name": each} for each in described]
        self._names = [str(axis["name"]).lower() for axis in axes]
        if len(self._names) != len(shape) or len(set(self._names)) < len(shape) or not {"y", "x"} <= {*self._names}:
            raise ImageError(
                f"{path} has the axes {', '.join(self._names)}, but its array {place} has the shape {shape}.",
                hint="Export it again.",
            )
        length = dict(zip((name.upper() for name in self._names), shape, strict=True))
        refuse_axes(length, "TCZYX", path)
        refuse_edges(length["Y"], length["X"], path)
        channels = attributes.get("omero", {}).get("channels", [])
        self.upright = self._names.index("y") < self._names.index("x")
        self.scene = Scene(
            name=field.name,
            channels=names_of(tuple(str(each.get("label", "")) for each in channels), length.get("C", 1)),
            height=length["Y"],
            width=length["X"],
            depths=length.get("Z", 1),
            times=length.get("T", 1),
            dtype=np.dtype(self.array.pixels.dtype.numpy_dtype),
            pixel_um=_pixel_um(axes, dataset, multiscale),
            plate=field.plate,
            well=field.well,
            field=field.field,
        )

    def place(self, at: Mapping[str, int]) -> list[int | slice]:
        """Return the place of a plane in the array."""
        return [slice(None) if name in "yx" else at.get(name, 0) for name in self._names]


def zarr_fields(store: ZarrStore, place: str = "") -> list[ZarrField]:
    """Return the images in a group: one, or those of a plate, a well or a collection.

    Args:
        store: The hierarchy.
        place: The path of the group.

    Returns:
        The images.

    Raises:
        ImageError: If the group contains no image, or lists one that does not exist.
    """
    attributes = store.attributes(place)
    if attributes is None:
        raise ImageError(f"{store.root} has no Zarr group{f' {place}' if place else ''}.", hint="Copy it again.")
    before = f"{place}/" if place else ""
    if "plate" in attributes:
        fields, name = [], plate_name(store, attributes["plate"])
        for each in attributes["plate"]["wells"]:
            well, label = str(each["path"]), well_label(str(each["path"]))
            inner = store.attributes(before + well)
            if inner is None or "well" not in inner:
                raise ImageError(
                    f"{store.root} lists the well {well}, which does not exist.",
                    hint="Copy it again, or use `import plate`, which imports the other wells.",
                )
            for image in inner["well"]["images"]:
                path = str(image["path"])
                fields.append(ZarrField(f"{before}{well}/{path}", f"{label}_{path}", name, label, path))
        return fields
    if "well" in attributes:
        images = [str(each["path"]) for each in attributes["well"]["images"]]
        return [ZarrField(before + each, each, field=each) for each in images]
    if "multiscales" in attributes:
        return [ZarrField(place)]
    listed = (store.attributes(f"{before}OME") or {}).get("series")
    if "bioformats2raw.layout" in attributes or listed:
        series = [str(each) for each in listed or ()]
        while not listed and "multiscales" in (store.attributes(f"{before}{len(series)}") or {}):
            series.append(str(len(series)))
        if len(series) == 1:
            return [ZarrField(before + series[0])]
        return [ZarrField(before + each, each.replace("/", "_")) for each in series]
    kind = "a Zarr array, not an OME-Zarr image" if store.is_array(place) else "no OME-Zarr image"
    raise ImageError(
        f"{store.root} contains {kind}: its metadata have neither multiscales nor a plate.",
        hint="Give the folder of an OME-Zarr image or plate, or export it again.",
    )


def well_label(path: str) -> str:
    """Return the name of a well from its path in a plate.

    >>> well_label("B/3"), well_label("B/03"), well_label("treated/x")
    ('B03', 'B03', 'treatedx')
    """
    row, _, column = path.partition("/")
    return f"{row.upper()}{int(column):02d}" if row.isalpha() and column.isdecimal() else row + column


def plate_name(store: ZarrStore, plate: Mapping[str, Any]) -> str:
    """Return the name of a plate: the one in its metadata, or that of its folder or zip file."""
    own = store.root.absolute().name
    return str(plate.get("name") or re.sub(r"(\.ome)?(\.zarr(\.zip)?|\.ozx)$", "", own))


def _pixel_um(
    axes: Sequence[Mapping[str, Any]], dataset: Mapping[str, Any], multiscale: Mapping[str, Any]
) -> float | None:
    """Return the pixel size in micrometers; None if no scale or no unit is stated, or if the scale is the identity."""
    transformations = [each for one in (dataset, multiscale) for each in one.get("coordinateTransformations", [])]
    scales = [
        np.asarray(each["scale"], float)
        for each in transformations
        if each.get("type") == "scale" and len(each.get("scale", [])) == len(axes)
    ]
    scale = np.prod([np.ones(len(axes)), *scales], axis=0)
    at = next(number for number, axis in enumerate(axes) if str(axis["name"]).lower() == "x")
    unit_um = LENGTHS_UM.get(str(axes[at].get("unit", "")).lower())
    if unit_um is None or np.all(scale == 1):
        return None
    return plausible_um(float(scale[at]) * unit_um)
