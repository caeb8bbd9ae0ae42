"""File names of plates: one regular expression or more for each instrument."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from cytoloc.dataset.plates.plate import Spot, well_name, well_of

_GUID: Final = r"[0-9A-F]{8}-(?:[0-9A-F]{4}-){3}[0-9A-F]{12}"
_WELL: Final = r"(?P<well>(?:[A-Z]|A[A-F])\d{2})"
_TIFF: Final = r"\.tiff?(?:\.gz)?"

PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    # 9987_B02_s1_w1.TIF, IXMtest_A01_s1_w1E3E70682-C209-4CAC-629F-6FBED82C07CD.tif, P_A01_w2_thumb….tif
    "imagexpress": (
        rf"(?:(?P<plate>.+?)_)?{_WELL}(?:_s(?P<field>\d+))?(?:_w(?P<channel>\d+))?(?:_z(?P<z>\d+))?(?:_t(?P<time>\d+))?"
        rf"(?P<thumb>_thumb)?(?:{_GUID})?{_TIFF}",
    ),
    # r01c02f03p01-ch1sk1fk1fl1.tiff, r01c02f03p01-ch1t01.tiff; 001002-3-001001001.tif of older versions
    "harmony": (
        r"r(?P<row>\d+)c(?P<column>\d+)f(?P<field>\d+)(?:p(?P<z>\d+))?(?:rc\d+)?-ch(?P<channel>\d+)"
        rf"(?:sk(?P<time>\d+)fk\d+fl\d+|t(?P<time2>\d+))?{_TIFF}",
        rf"(?P<row>\d{{3}})(?P<column>\d{{3}})-(?P<field>\d+)-(?P<z>\d{{3}})(?P<time>\d{{3}})(?P<channel>\d{{3}}){_TIFF}",
    ),
    # AssayPlate_B03_T0001F001L01A01Z01C01.tif; W1F001T0001Z01C1.tif of the CQ1
    "cellvoyager": (
        rf"(?:(?P<plate>.+)_)?{_WELL}_T(?P<time>\d+)F(?P<field>\d+)L\d+A\d+Z(?P<z>\d+)C(?P<channel>\d+)"
        rf"(?:{_TIFF}|\.png)",
        rf"(?P<number>W\d+)F(?P<field>\d+)T(?P<time>\d+)Z(?P<z>\d+)C(?P<channel>\d+)(?:{_TIFF}|\.png)",
    ),
    # A - 01(fld 1 wv DAPI - DAPI z 2 time 1).tif
    "incell": (
        r"(?P<well>(?:[A-Z]|A[A-F]) ?- ?\d{1,2}) ?\(fld (?P<field>\d+)(?: wv (?P<named>.+?))?(?: z (?P<z>\d+))?"
        rf"(?: time (?P<time>\d+)[^)]*)?\){_TIFF}",
    ),
    # A1--W00001--P00001--Z00000--T00000--DAPI.tif, --W00001--P00001--Z00000--T00000--DAPI.tif
    "scanr": (
        r"(?:(?P<label>.*?)--)?(?P<number>W\d+)--P(?P<field>\d+)--Z(?P<z>\d+)--T(?P<time>\d+)--(?P<named>.+)" + _TIFF,
    ),
}
"""The file names of each layout. All groups except ``field`` are optional."""

_COMPILED: Final = {
    layout: tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns) for layout, patterns in PATTERNS.items()
}
_TIME_FOLDER: Final = re.compile(r"TimePoint_(\d+)", re.IGNORECASE)
_Z_FOLDER: Final = re.compile(r"ZStep_(\d+)", re.IGNORECASE)
_INNER_FOLDER: Final = re.compile(r"Images|data", re.IGNORECASE)


class NamedFile(NamedTuple):
    """What the name of a file says.

    Attributes:
        folder: The folder of its plate, relative to the folder that was searched.
        plate: The name of the plate; empty if the name does not contain it.
        spot: The well, field and time point.
        channel: The number of the channel; None if the name has none.
        named: The name of the channel; empty if channels are numbered.
        z: The z plane.
        sure: Whether the name says which field or channel it is, and not only the well.
        thumb: Whether it is a thumbnail.
    """

    folder: str
    plate: str
    spot: Spot
    channel: int | None
    named: str
    z: int
    sure: bool
    thumb: bool


def read_name(path: str, layout: str) -> NamedFile | None:
    """Return what the name of a file says, in a layout of :data:`PATTERNS`.

    Args:
        path: The file, relative to the folder that was searched.
        layout: The layout.

    Returns:
        The content of the name; None if the name has another form.

    >>> read_name("P1/TimePoint_2/9987_B02_s10_w12.TIF", "imagexpress")[:4]
    ('P1', '9987', Spot(well='B02', field=10, time=2), 12)
    >>> read_name("r01c02f03p04-ch1sk1fk1fl1.tiff", "harmony").spot
    Spot(well='A02', field=3, time=1)
    """
    *folders, name = path.split("/")
    found = next((match for each in _COMPILED[layout] if (match := each.fullmatch(name))), None)
    if found is None:
        return None
    parts = {key: value for key, value in found.groupdict().items() if value is not None}
    time, z = int(parts.get("time", parts.get("time2", "1"))), int(parts.get("z", "1"))
    kept = []
    for folder in folders:
        if layout == "imagexpress" and (at := _TIME_FOLDER.fullmatch(folder)):
            time = int(at[1])
        elif layout == "imagexpress" and (at := _Z_FOLDER.fullmatch(folder)):
            z = int(at[1])
        elif layout == "imagexpress" or not (folder is folders[-1] and _INNER_FOLDER.fullmatch(folder)):
            kept.append(folder)
    if layout == "imagexpress" and "z" not in parts and not any(_Z_FOLDER.fullmatch(each) for each in folders):
        z = 0  # a single plane, or the instrument's own projection beside the folders of the planes
    if "row" in parts:
        well = well_name(int(parts["row"]), int(parts["column"]))
    else:
        text = parts.get("well") or parts.get("label") or ""
        # Some instruments number the wells instead.
        well = well_of(text) or parts.get("number", text)
    channel = int(parts["channel"]) if "channel" in parts else None
    return NamedFile(
        folder="/".join(kept),
        plate=parts.get("plate", ""),
        spot=Spot(well, int(parts.get("field", "1")), time),
        channel=channel,
        named=parts.get("named", ""),
        z=z,
        sure=layout != "imagexpress" or "field" in parts or "channel" in parts,
        thumb="thumb" in parts,
    )
