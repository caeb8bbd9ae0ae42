"""OME-Zarr plates: each field is an image of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cytoloc.dataset.manifest import holds_dataset
from cytoloc.dataset.plates.plate import Plate, PlateChannel, Spot
from cytoloc.errors import ImageError
from cytoloc.files import walk_files
from cytoloc.images.decoding import decoding
from cytoloc.images.formats import Scene, open_image
from cytoloc.images.formats.zarr.ome_zarr import plate_name, well_label
from cytoloc.images.formats.zarr.store import ZARR_SUFFIXES, ZarrStore, is_zarr

OME_ZARR: Final = "ome-zarr"


def find_zarr_plates(folder: Path) -> list[Plate]:
    """Return the OME-Zarr plates in a folder; the folder itself can be one.

    Args:
        folder: The folder.

    Returns:
        The plates. The paths of planes lead to the image of a field, which contains all channels.

    Raises:
        ImageError: If the folder does not exist, or the metadata of a plate are damaged.
    """
    places = [""] if is_zarr(folder) else sorted(walk_files(folder, suffixes=ZARR_SUFFIXES, passing_over=holds_dataset))
    plates = []
    for place in places:
        path = folder / place if place else folder
        with decoding(path):
            store = ZarrStore(path)
            try:
                attributes = store.attributes("") or {}
                if "plate" in attributes:
                    plates.append(_plate_of(store, place, attributes["plate"]))
            finally:
                store.close()
    return plates


def _plate_of(store: ZarrStore, place: str, described: Mapping[str, Any]) -> Plate:
    """Return a plate with the image group of each field, and a problem for each well that does not exist."""
    before = f"{place}/" if place else ""
    index = "zarr.json" if store.has("zarr.json") else ".zattrs"
    plate = Plate(name=plate_name(store, described), folder=place, index=before + index)
    scene: Scene | None = None
    for each in described["wells"]:
        path = str(each["path"])
        well = well_label(path)
        attributes = store.attributes(path)
        if attributes is None or "well" not in attributes:
            plate.problems[Spot(well, 0, 0)] = f"the plate lists the well {path}, which does not exist"
            continue
        for number, image in enumerate(attributes["well"]["images"]):
            name = str(image["path"])
            if scene is None:
                # The import of a field that cannot be read reports it.
                with suppress(ImageError), open_image(store.root / path / name) as opened:
                    scene = opened.scenes[0]
            for time in range(scene.times if scene else 1):
                spot = Spot(well, int(name) if name.isdecimal() else number, time)
                plate.add(spot, 1, 0, f"{before}{path}/{name}")
    names = scene.channels if scene else ("",)
    plate.channels = tuple(PlateChannel(number=number, name=name) for number, name in enumerate(names))
    return plate
