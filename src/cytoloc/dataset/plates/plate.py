"""A plate: its wells, fields, channels, z planes and time points, and the file of each plane."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cytoloc.errors import ImageError, SettingsError


@dataclass(frozen=True, kw_only=True)
class PlateChannel:
    """A channel of a plate.

    Attributes:
        number: The number that the instrument gives it, such as 1 in ``w1`` or ``ch1``.
        name: The name; empty if it is unknown.
        wavelengths: Excitation and emission wavelengths in nanometers, as far as they are known.
    """

    number: int
    name: str = ""
    wavelengths: tuple[int, ...] = ()

    def __str__(self) -> str:
        nm = f" ({', '.join(map(str, self.wavelengths))} nm)" if self.wavelengths else ""
        return f"{self.number}{f' {self.name!r}' if self.name else ''}{nm}"


class Spot(NamedTuple):
    """A field of view at a time point: the well such as ``B03``, the number of the field, and the time point."""

    well: str
    field: int
    time: int


@dataclass(kw_only=True)
class Plate:
    """The files of a plate.

    Attributes:
        name: The name of the plate.
        folder: The folder of the plate, relative to the folder that was searched; empty for that folder itself.
        index: The file of the instrument that lists the plate, relative to the folder that was searched; None if the
            plate is known from file names only.
        channels: All channels.
        planes: For each field and time point, the file of each channel and z plane. The paths are relative to the
            folder that was searched.
        problems: The fields and time points that cannot be imported, with the reason.
        pixel_um: Pixel size in micrometers, as the index states it.
    """

    name: str
    folder: str
    index: str | None = None
    channels: tuple[PlateChannel, ...] = ()
    planes: dict[Spot, dict[int, dict[int, str]]] = field(default_factory=dict)
    problems: dict[Spot, str] = field(default_factory=dict)
    pixel_um: float | None = None

    def add(self, spot: Spot, channel: int, z: int, path: str) -> None:
        """Add the file of a plane. A second file for a plane is a problem of its field."""
        planes = self.planes.setdefault(spot, {}).setdefault(channel, {})
        other = planes.setdefault(z, path)
        if other != path:
            one, two = sorted((other, path))
            self.problems[spot] = f"two files for channel {channel}, z plane {z}: {one} and {two}"

    @property
    def spots(self) -> list[Spot]:
        """All fields and time points, also those with a problem, in order."""
        return sorted({*self.planes, *self.problems})


@dataclass(frozen=True, kw_only=True)
class FoundPlates:
    """The plates in a folder.

    Attributes:
        layout: The layout of the files.
        plates: The plates, in order of their names, which are unique.
        unmatched: The number of image files that belong to no plate. Thumbnails are not counted.
    """

    layout: str
    plates: tuple[Plate, ...]
    unmatched: int = 0


def well_name(row: int, column: int) -> str:
    """Return the name of a well.

    Args:
        row: The row, from 1.
        column: The column, from 1.

    Returns:
        The name, with one or two letters and at least two digits.

    >>> well_name(2, 3), well_name(27, 48)
    ('B03', 'AA48')
    """
    letters = chr(64 + (row - 1) // 26) if row > 26 else ""
    return f"{letters}{chr(65 + (row - 1) % 26)}{column:02d}"


def well_of(text: str) -> str | None:
    """Return the name of a well from another spelling; None if it is not a well.

    >>> well_of("b3"), well_of("A - 1"), well_of("A/01"), well_of("W00014")
    ('B03', 'A01', 'A01', None)
    """
    found = re.fullmatch(r"([A-Za-z]|[Aa][A-Fa-f])[ /_-]*0{0,2}(\d{1,2})", text.strip())
    return f"{found[1].upper()}{int(found[2]):02d}" if found and int(found[2]) else None


def named_channels(names: Iterable[str]) -> dict[str, int]:
    """Return the numbers of channels that file names name instead of numbering: 1, 2, … in alphabetical order."""
    return {name: number for number, name in enumerate(sorted(set(names)), start=1)}


def find_channel(channels: Sequence[PlateChannel], wanted: str | int, *, plate: str) -> PlateChannel:
    """Return a channel of a plate.

    Args:
        channels: The channels of the plate.
        wanted: The name of the channel, or whole words of it; its number (``2``, ``w2``, ``ch2``); or one of its
            wavelengths (``488``, ``488nm``). The whole name takes precedence.
        plate: The plate, for error messages.

    Returns:
        The channel.

    Raises:
        SettingsError: If there is no such channel, or there are several.

    >>> some = [PlateChannel(number=1, name="DAPI"), PlateChannel(number=2, name="FITC - FITC", wavelengths=(488,))]
    >>> [find_channel(some, wanted, plate="P1").number for wanted in ("dapi", "FITC", "w2", 488)]
    [1, 2, 2, 2]
    """
    text = str(wanted).strip()
    word = text.casefold()
    numbered = re.fullmatch(r"(?:w|ch|c|channel ?)?0*(\d+)(nm)?", word)
    ways = (
        [each for each in channels if each.name.casefold() == word],
        [each for each in channels if numbered and not numbered[2] and each.number == int(numbered[1])],
        [each for each in channels if numbered and int(numbered[1]) in each.wavelengths],
        [each for each in channels if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", each.name.casefold())],
    )
    found = next((way for way in ways if way), [])
    if len(found) != 1:
        raise SettingsError(
            f"The plate {plate} has {f'{len(found)} channels' if found else 'no channel'} {text!r}; its channels are"
            f" {', '.join(map(str, channels))}.",
            hint="Give the whole name of a channel, its number, or its wavelength in `channels`.",
        )
    return found[0]


def refuse_damaged(path: str, error: Exception) -> ImageError:
    """Return the error for an index file that cannot be read."""
    return ImageError(
        f"The index file {path} cannot be read: {error}.",
        hint="Copy the file again, or remove it to find the plate by its file names.",
    )
