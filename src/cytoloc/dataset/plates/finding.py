"""Finding of the plates in a folder: the layout of the files, then each plate by its index or by file names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, get_args

from cytoloc.dataset.manifest import holds_dataset
from cytoloc.dataset.plates.index_files import HARMONY_NAMES, READERS, HtdFile, ScanrFile
from cytoloc.dataset.plates.names import PATTERNS, NamedFile, read_name
from cytoloc.dataset.plates.ome_zarr import OME_ZARR, find_zarr_plates
from cytoloc.dataset.plates.plate import FoundPlates, Plate, PlateChannel, Spot, named_channels
from cytoloc.errors import ImageError, SettingsError
from cytoloc.files import walk_files

Layout = Literal["auto", "imagexpress", "operetta", "harmony", "cellvoyager", "incell", "scanr", "ome-zarr"]
"""The layout of the files of a plate. ``operetta`` and ``harmony`` are the same."""

LAYOUTS: Final[tuple[str, ...]] = get_args(Layout)

_IMAGES: Final = (".tif", ".tiff", ".tif.gz", ".tiff.gz", ".png", ".zarr", ".zarr.zip", ".ozx")
_INDEXES: Final = (".htd", ".xml", ".mlf", ".xdce")


@dataclass(frozen=True)
class _Files:
    """The files in a folder that matter for plates, relative to it and sorted."""

    folder: Path
    images: Sequence[str]
    indexes: Mapping[str, Sequence[str]]

    def below(self, place: str) -> Iterator[str]:
        """Yield the images in a folder and its subfolders."""
        return (path for path in self.images if not place or path.startswith(f"{place}/"))


def find_plates(folder: Path, layout: str = "auto") -> FoundPlates:
    """Find all plates in a folder and its subfolders.

    Args:
        folder: The folder.
        layout: The layout of the files; see :data:`Layout`.

    Returns:
        The plates.

    Raises:
        ImageError: If the folder does not exist, contains no plate, or an index file is damaged.
        SettingsError: If the layout is unknown, or several layouts are possible.
    """
    if layout not in LAYOUTS:
        raise SettingsError(f"`layout` is {layout!r}.", hint=f"Choose from {', '.join(LAYOUTS)}.")
    wanted = "harmony" if layout == "operetta" else layout
    if wanted in ("auto", OME_ZARR):
        plates = find_zarr_plates(folder)
        if plates:
            # Only the folder itself is searched, because an OME-Zarr can have millions of files.
            beside = folder.iterdir() if wanted == "auto" and folder.is_dir() else ()
            if any(path.suffix.lower() in (".htd", ".mlf", ".xdce") for path in beside):
                raise SettingsError(
                    f"{folder} has plates in OME-Zarr and an index file of another layout.",
                    hint="Choose one with `layout`.",
                )
            return FoundPlates(layout=OME_ZARR, plates=_with_unique_names(plates, folder))
    paths = sorted(walk_files(folder, suffixes=(*_IMAGES, *_INDEXES), passing_over=holds_dataset))
    images = [path for path in paths if path.lower().endswith(_IMAGES)]
    files = _Files(folder, images, {each: list(_indexes(each, paths)) for each in PATTERNS})
    chosen = wanted
    if wanted == "auto":
        # Index files say more than file names.
        counts = Counter(
            each
            for each in PATTERNS
            for path in images
            if (name := read_name(path, each)) and name.sure and not name.thumb
        )
        possible = [each for each, indexes in files.indexes.items() if indexes] or list(counts)
        if len(possible) > 1:
            raise SettingsError(
                f"{folder} has files of several layouts: {', '.join(possible)}.",
                hint="Choose one with `layout`, or give the folder of one plate.",
            )
        chosen = possible[0] if possible else ""
    plates = list(_plates(files, chosen)) if chosen in PATTERNS else []
    if not plates:
        examples = f", such as {', '.join(images[:2])}" if images else ""
        raise ImageError(
            f"{folder} contains no plate{'' if wanted == 'auto' else f' of the layout {layout}'}: neither an index file"
            f" nor a file name of the layouts {', '.join(LAYOUTS[1:])} was found among {len(images)} images{examples}.",
            hint="Give another layout, or import the files with `import folder` and patterns or a table.",
        )
    plates = list(_with_unique_names(plates, folder))
    used = {path for plate in plates for by in plate.planes.values() for z in by.values() for path in z.values()}
    others = (path for path in images if path not in used and "thumb" not in path.lower())
    unmatched = sum(not ((name := read_name(path, chosen)) and name.thumb) for path in others)
    return FoundPlates(layout=chosen, plates=tuple(plates), unmatched=unmatched)


def _indexes(layout: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield the index files of a layout. Copies in subfolders and older versions beside one are left out."""
    found: dict[str, str] = {}
    for path in paths:
        place, _, name = path.lower().rpartition("/")
        if layout == "imagexpress" and name.endswith(".htd"):
            # MetaXpress writes a copy into the folder of each time point.
            above = (f"{place.rsplit('/', depth)[0]}/{name}" for depth in range(1, place.count("/") + 1))
            if place and (name in found or any(each in found for each in above)):
                continue
            found[path.lower()] = path
        elif layout == "harmony" and name in HARMONY_NAMES:
            other = found.get(place, "").lower().rpartition("/")[2]
            if not other or HARMONY_NAMES.index(name) < HARMONY_NAMES.index(other):
                found[place] = path
        elif (
            (layout == "cellvoyager" and name == "measurementdata.mlf")
            or (layout == "incell" and name.endswith(".xdce"))
            or (layout == "scanr" and name == "experiment_descriptor.xml")
        ):
            found[path] = path
    yield from sorted(found.values())


def _plates(files: _Files, layout: str) -> Iterator[Plate]:
    """Yield the plates of a layout: those with an index file, then those known from file names only."""
    covered: set[str] = set()
    for index in files.indexes[layout]:
        place = index.rpartition("/")[0]
        if layout in READERS:
            plate = READERS[layout](files.folder, index)
            plate.name = plate.name or _folder_name(files.folder, place)
            present = set(files.below(place))
            for spot, channels in plate.planes.items():
                lost = [path for planes in channels.values() for path in planes.values() if path not in present]
                if lost:
                    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
                    plate.problems.setdefault(spot, f"{lost[0]}{more}, listed in {index}, is missing")
        elif layout == "imagexpress":
            plate = _imagexpress_plate(files, index)
        else:
            plate = _scanr_plate(files, index)
        covered.update(files.below(place))
        yield plate
    named = [
        (path, name)
        for path in files.images
        if path not in covered and (name := read_name(path, layout)) and name.sure and not name.thumb
    ]
    groups: dict[tuple[str, str], list[tuple[str, NamedFile]]] = defaultdict(list)
    for path, name in named:
        groups[name.folder, name.plate].append((path, name))
    for (place, called), members in groups.items():
        plate = Plate(name=called or _folder_name(files.folder, place), folder=place)
        _add_named(plate, members, layout=layout)
        yield plate


def _add_named(plate: Plate, members: Sequence[tuple[str, NamedFile]], *, layout: str) -> None:
    """Add files to a plate by their names, and its channels unless an index has named them."""
    numbers = named_channels(name.named for _, name in members if name.named)
    for path, name in members:
        plate.add(name.spot, numbers.get(name.named, name.channel or 1), name.z, path)
    if not plate.channels:
        called = {number: text for text, number in numbers.items()}
        used = sorted({channel for channels in plate.planes.values() for channel in channels})
        plate.channels = tuple(PlateChannel(number=number, name=called.get(number, "")) for number in used)
    if layout == "scanr":
        return  # counts planes from 0
    for channels in plate.planes.values():
        for planes in channels.values():
            # Plane 0 is the instrument's own projection.
            if len(planes) > 1:
                planes.pop(0, None)


def _imagexpress_plate(files: _Files, index: str) -> Plate:
    """Return the plate of a MetaXpress index, which lists wells, sites and time points but no files."""
    place, _, name = index.rpartition("/")
    htd, stem = HtdFile(files.folder, index), name.rpartition(".")[0]
    plate = Plate(name=stem, folder=place, index=index, channels=htd.channels)
    alone = sum(other.rpartition("/")[0] == place for other in files.indexes["imagexpress"]) == 1
    members = [
        (path, found)
        for path in files.below(place)
        if (found := read_name(path, "imagexpress"))
        and not found.thumb
        and (found.plate.lower() == stem.lower() or (alone and (found.sure or not found.plate)))
    ]
    _add_named(plate, members, layout="imagexpress")
    known = {each.number for each in plate.channels}
    more = {channel for channels in plate.planes.values() for channel in channels} - known
    plate.channels += tuple(PlateChannel(number=number) for number in sorted(more))
    fields = set(range(1, htd.fields + 1)) | {spot.field for spot in plate.planes}
    if len({spot.field for spot in plate.planes}) == htd.fields:
        # MetaXpress numbers the sites of the whole grid, or only those that were imaged.
        fields = {spot.field for spot in plate.planes}
    for spot in (Spot(w, f, t) for w in htd.wells for f in fields for t in range(1, htd.times + 1)):
        if spot not in plate.planes:
            plate.problems.setdefault(spot, f"{index} lists this field, but there is no file of it")
    return plate


def _scanr_plate(files: _Files, index: str) -> Plate:
    """Return the plate of a ScanR index, which names the wells but lists no files."""
    place = index.rpartition("/")[0]
    descriptor = ScanrFile(files.folder, index)
    plate = Plate(
        name=descriptor.name or _folder_name(files.folder, place),
        folder=place,
        index=index,
        pixel_um=descriptor.pixel_um,
    )
    members = []
    for path in files.below(place):
        if name := read_name(path, "scanr"):
            well = name.spot.well
            if well.startswith("W") and well[1:].isdecimal():
                well = descriptor.wells.get(int(well[1:]), well)
            members.append((path, name._replace(spot=name.spot._replace(well=well))))
    _add_named(plate, members, layout="imagexpress")
    return plate


def _folder_name(folder: Path, place: str) -> str:
    """Return the name of a plate's folder; the folder ``Images`` or ``data`` inside it has no name of its own."""
    path = folder.absolute() / place if place else folder.absolute()
    return path.parent.name if path.name.lower() in ("images", "data", "imagedata") else path.name


def _with_unique_names(plates: Iterable[Plate], folder: Path) -> tuple[Plate, ...]:
    """Return plates in order of their names; equal names are followed by the folder of the plate."""
    several = list(plates)
    counts = Counter(plate.name for plate in several)
    named = [
        replace(each, name=f"{each.name}_{(each.folder or folder.name).replace('/', '_')}")
        if counts[each.name] > 1
        else each
        for each in several
    ]
    repeated = [name for name, count in Counter(each.name for each in named).items() if count > 1]
    if repeated:
        raise ImageError(f"{folder} has several plates {repeated[0]}.", hint="Import each plate by itself.")
    return tuple(sorted(named, key=lambda each: each.name))
