"""Index files of instruments: HTD, Harmony and Columbus XML, CellVoyager's MLF and MRF, InCell's XDCE, ScanR's XML."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cytoloc.dataset.plates.plate import Plate, PlateChannel, Spot, refuse_damaged, well_name, well_of

HARMONY_NAMES: Final = ("index.idx.xml", "index.xml", "index.ref.xml", "imageindex.columbusidx.xml")
"""Names of Harmony's and Columbus's index files, in lower case; the first one that exists is read."""


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn errors in an index file into :class:`~cytoloc.errors.ImageError`."""
    try:
        yield
    except (ElementTree.ParseError, KeyError, ValueError, IndexError, OSError) as error:
        raise refuse_damaged(path, error) from error


def _local(name: str) -> str:
    """Return the name of an XML element or attribute without its namespace."""
    return name.rpartition("}")[2]


def _elements(path: Path, *names: str) -> Iterator[ElementTree.Element]:
    """Yield the elements of an XML file with given names, and forget them afterwards; an index can have 100 MB."""
    for _, element in ElementTree.iterparse(path, events=("end",)):  # noqa: S314  expat limits entity expansion itself
        if _local(element.tag) in names:
            yield element
            element.clear()


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    return {_local(name): value for name, value in element.attrib.items()}


def _nanometers(texts: Iterator[str] | list[str]) -> tuple[int, ...]:
    """Return the wavelengths in some texts, such as ``405nm`` or ``445.0``, each once."""
    found = (re.fullmatch(r"(\d{3,4})(?:\.\d+)?(?: ?nm)?", text.strip()) for text in texts)
    return tuple(dict.fromkeys(int(each[1]) for each in found if each))


class HtdFile:
    """MetaXpress's HTD file: a line of comma-separated values per setting.

    Attributes:
        channels: The channels.
        wells: The wells that were imaged.
        fields: The number of fields per well.
        times: The number of time points.
    """

    def __init__(self, folder: Path, path: str) -> None:
        with _reading(path):
            # The description can have the encoding of any country.
            lines = (folder / path).read_text("latin-1").splitlines()
            rows = {row[0]: row[1:] for row in csv.reader(lines, skipinitialspace=True) if len(row) > 1}

            def yes(key: str) -> list[bool]:
                return [value.strip().upper() == "TRUE" for value in rows.get(key, [])]

            count = int(rows["NWavelengths"][0]) if any(yes("Waves")) else 1
            self.channels = tuple(
                PlateChannel(number=number, name=rows.get(f"WaveName{number}", [""])[0])
                for number in range(1, count + 1)
            )
            self.wells = [
                well_name(row, column)
                for row in range(1, int(rows["YWells"][0]) + 1)
                for column, chosen in enumerate(yes(f"WellsSelection{row}"), start=1)
                if chosen
            ]
            sites = sum(sum(yes(f"SiteSelection{row}")) for row in range(1, int(rows.get("YSites", ["0"])[0]) + 1))
            self.fields = sites if any(yes("Sites")) and sites else 1
            self.times = int(rows.get("TimePoints", ["1"])[0])


def read_harmony(folder: Path, path: str) -> Plate:
    """Return the plate in an index of Harmony (Operetta, Opera Phenix, Sonata) or Columbus.

    Harmony before version 7 writes the properties of a channel into each image, and later versions into a map.

    Args:
        folder: The folder that is searched.
        path: The index file, relative to the folder.

    Returns:
        The plate.

    Raises:
        ImageError: If the file is damaged.
    """
    place = path.rpartition("/")[0]
    plate = Plate(name="", folder=place, index=path)
    found: dict[int, dict[str, str]] = {}
    with _reading(path):
        for element in _elements(folder / path, "Plate", "Entry", "Image"):
            values = {_local(child.tag): (child.text or "").strip() for child in element}
            kind = _local(element.tag)
            if kind == "Plate":
                plate.name = plate.name or values.get("Name") or values.get("PlateID", "")
            elif kind == "Entry":
                known = {key: value for key, value in values.items() if not key.endswith("Profile")}
                found.setdefault(int(element.get("ChannelID", 0)), {}).update(known)
            elif "URL" in values:
                # An image in the list of a well has no address.
                number = int(values["ChannelID"])
                channel = found.setdefault(number, {})
                for key in ("ChannelName", "ImageResolutionX", *_WAVELENGTHS):
                    channel.setdefault(key, values.get(key, ""))
                    channel[key] = channel[key] or values.get(key, "")
                spot = Spot(
                    well_name(int(values["Row"]), int(values["Col"])),
                    int(values["FieldID"]),
                    int(values.get("TimepointID", "0")) + 1,
                )
                address = values["URL"].replace("\\", "/").rpartition("/")[2]
                plate.add(spot, number, int(values.get("PlaneID", "1")), f"{place}/{address}" if place else address)
    used = {channel for planes in plate.planes.values() for channel in planes}
    plate.channels = tuple(
        PlateChannel(
            number=number,
            name=values.get("ChannelName", ""),
            wavelengths=_nanometers([values.get(key, "") for key in _WAVELENGTHS]),
        )
        for number, values in sorted(found.items())
        if number in used
    )
    meters = {float(values["ImageResolutionX"]) for values in found.values() if values.get("ImageResolutionX")}
    plate.pixel_um = meters.pop() * 1e6 if len(meters) == 1 else None
    return plate


_WAVELENGTHS: Final = ("MainExcitationWavelength", "MainEmissionWavelength")


def read_cellvoyager(folder: Path, path: str) -> Plate:
    """Return the plate in a ``MeasurementData.mlf`` of a CellVoyager, with the ``.mrf`` and ``.mes`` files beside it.

    Args:
        folder: The folder that is searched.
        path: The index file, relative to the folder.

    Returns:
        The plate.

    Raises:
        ImageError: If a file is damaged.
    """
    place = path.rpartition("/")[0]
    plate = Plate(name="", folder=place, index=path)
    failed: dict[Spot, str] = {}
    with _reading(path):
        for element in _elements(folder / path, "MeasurementRecord"):
            values, text = _attributes(element), (element.text or "").strip()
            spot = Spot(
                well_name(int(values["Row"]), int(values["Column"])),
                int(values["FieldIndex"]),
                int(values.get("TimePoint", "1")),
            )
            if values.get("Type", "IMG") == "IMG":
                file = f"{place}/{text}" if place else text
                plate.add(spot, int(values["Ch"]), int(values.get("ZIndex", "1")), file)
            elif values["Type"] == "ERR":
                failed[spot] = f"{path} reports an error of the instrument: {text}"
    plate.problems.update(failed)
    names: dict[int, PlateChannel] = {}
    pixel_um: set[float] = set()
    for beside in sorted(each for each in (folder / place).iterdir() if each.suffix.lower() in (".mrf", ".mes")):
        if beside.name.startswith("."):
            continue
        with _reading(str(beside)):
            for element in _elements(beside, "MeasurementDetail", "MeasurementChannel", "Channel"):
                values = _attributes(element)
                if _local(element.tag) == "MeasurementDetail":
                    plate.name = plate.name or values.get("Title", "")
                elif _local(element.tag) == "MeasurementChannel":
                    if width := values.get("HorizontalPixelDimension"):
                        pixel_um.add(float(width))
                else:
                    lights = [each.text or "" for each in element.iter() if _local(each.tag).startswith("LightSource")]
                    filters = re.findall(r"\d{3}(?=/)", values.get("Acquisition", ""))
                    names[int(values["Ch"])] = PlateChannel(
                        number=int(values["Ch"]),
                        name=values.get("Target") or values.get("Fluorophore") or values.get("Acquisition", ""),
                        wavelengths=_nanometers([*lights, *filters]),
                    )
    used = {channel for planes in plate.planes.values() for channel in planes}
    plate.channels = tuple(names.get(number, PlateChannel(number=number)) for number in sorted(used))
    plate.pixel_um = pixel_um.pop() if len(pixel_um) == 1 else None
    return plate


def read_incell(folder: Path, path: str) -> Plate:
    """Return the plate in an ``.xdce`` file of an InCell Analyzer.

    Args:
        folder: The folder that is searched.
        path: The index file, relative to the folder.

    Returns:
        The plate.

    Raises:
        ImageError: If the file is damaged.
    """
    place, _, name = path.rpartition("/")
    plate = Plate(name=name.rpartition(".")[0], folder=place, index=path)
    names: dict[int, tuple[str, ...]] = {}
    with _reading(path):
        for element in _elements(folder / path, "Image", "ObjectiveCalibration"):
            if _local(element.tag) == "ObjectiveCalibration":
                width = element.get("pixel_width")
                plate.pixel_um = float(width) if width else None
                continue
            parts: dict[str, Any] = {_local(child.tag): child for child in element}
            if "Well" not in parts or "Identifier" not in parts:
                continue
            inner = {_local(child.tag): child.get("number", "0") for child in parts["Well"]}
            at = parts["Identifier"].attrib
            channel = int(at.get("wave_index", 0)) + 1
            spot = Spot(
                well_name(int(inner["Row"]), int(inner["Column"])),
                int(at.get("field_index", 0)) + 1,
                int(at.get("time_index", 0)) + 1,
            )
            file = element.attrib["filename"]
            plate.add(spot, channel, int(at.get("z_index", 0)) + 1, f"{place}/{file}" if place else file)
            filters = [parts[each].get("name", "") for each in ("ExcitationFilter", "EmissionFilter") if each in parts]
            names[channel] = tuple(each for each in filters if each)
    plate.channels = tuple(
        PlateChannel(number=number, name=" - ".join(parts), wavelengths=_nanometers(list(parts)))
        for number, parts in sorted(names.items())
    )
    return plate


class ScanrFile:
    """ScanR's ``experiment_descriptor.xml``, a list of names and values of LabVIEW.

    Attributes:
        name: The name of the plate; may be empty.
        wells: The name of each well, by its number in file names such as ``W00014``.
        pixel_um: Pixel size in micrometers; None if it is not stated.
    """

    def __init__(self, folder: Path, path: str) -> None:
        self.name, self.wells, self.pixel_um = "", dict[int, str](), None
        key, number = "", 0
        with _reading(path):
            for element in _elements(folder / path, "Name", "Val"):
                text = (element.text or "").strip()
                if _local(element.tag) == "Name":
                    key = text or key
                elif key == "plate name":
                    self.name = self.name or text
                elif key == "conversion factor um/pixel":
                    self.pixel_um = float(text.replace(",", "."))
                elif key == "well selection table + cDNA" and text.isdecimal():
                    number = int(text)
                elif key == "well selection table + cDNA" and text:
                    self.wells.setdefault(number, well_of(text) or text)


READERS: Final[dict[str, Callable[[Path, str], Plate]]] = {
    "harmony": read_harmony,
    "cellvoyager": read_cellvoyager,
    "incell": read_incell,
}
"""The readers of index files that list every plane."""
