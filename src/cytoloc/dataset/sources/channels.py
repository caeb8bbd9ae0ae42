"""Assignment of files, and of channels in files, to the channels of a dataset."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cytoloc.channels import CHANNELS, PROTEIN, channel_order, check_channels
from cytoloc.errors import ChannelError, ImageError, SettingsError

NAMES: Final = ("antibody", "plate", "well", "field", "gene", "cell_line")
"""Values that a pattern can find in a file name besides ``id``."""

_ANYTHING: Final = "{_}"
"""A part of a file name that belongs to no value, such as a GUID."""

_EXAMPLE: Final = (
    "Write for example microtubules=*_red.tif,protein=*_green.tif,nucleus=*_blue.tif,er=*_yellow.tif, or for files with"
    " several channels nucleus=0,protein=GFP."
)


class FilePattern:
    """A pattern of file names with the id of a field and other values.

    Args:
        text: A path below the folder, in which ``*`` or ``{id}`` stands for the id of the field, and ``{plate}``,
            ``{well}``, ``{field}``, ``{antibody}``, ``{gene}`` and ``{cell_line}`` for these values. Only ``*`` can
            span folders. Without an id, the other values are joined to one. ``{_}`` stands for anything else in a name,
            which belongs to no value.

    Attributes:
        text: The pattern.
        names: The values in it.
        wild: Whether it contains ``{_}``, so that values do not determine a file name.

    Raises:
        SettingsError: If the pattern has no variable part, repeats one, or has an unknown name.

    Examples:
        >>> pattern = FilePattern("{plate}/{well}_{field}_blue.tif")
        >>> pattern.match("P7/C03_2_blue.tif")
        {'plate': 'P7', 'well': 'C03', 'field': '2', 'id': 'P7_C03_2'}
        >>> FilePattern("*_blue.tif").match("monday/3_green.tif")
        >>> FilePattern("{well}_w1{_}.tif").match("C03_w1E3E70682.tif")
        {'well': 'C03', 'id': 'C03'}
    """

    def __init__(self, text: str) -> None:
        self.text = text = unicodedata.normalize("NFC", text)
        parts = re.split(r"(\*|\{[^}]*\})", text)
        self.names = ["id" if part == "*" else part[1:-1] for part in parts[1::2] if part != _ANYTHING]
        self.wild = _ANYTHING in parts
        unknown = [name for name in self.names if name not in ("id", *NAMES)]
        if unknown:
            raise SettingsError(
                f"The pattern {text} has the unknown name {{{unknown[0]}}}.",
                hint=f"Use *, {{id}}, {{{'}, {'.join(NAMES)}}}, or {_ANYTHING} for anything else.",
            )
        if not self.names or len(set(self.names)) < len(self.names):
            raise SettingsError(f"The pattern {text} needs one or more variable parts, each once.", hint=_EXAMPLE)
        groups = {"*": "(?P<id>.+)", _ANYTHING: "[^/]*"}
        wild = [groups.get(part) or f"(?P<{part[1:-1]}>[^/]+)" for part in parts[1::2]]
        plain = [re.escape(part) for part in parts[::2]]
        self._expression = re.compile("".join(a + b for a, b in zip(plain, [*wild, ""], strict=True)), re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        """Return the values in a file name, including ``id``; None if the name does not match."""
        found = self._expression.fullmatch(path)
        if found is None:
            return None
        parts = found.groupdict()
        return parts if "id" in parts else {**parts, "id": "_".join(parts[name] for name in NAMES if name in parts)}

    def path_of(self, parts: Mapping[str, str]) -> str:
        """Return the file name for given values.

        >>> FilePattern("{plate}/{well}_*_blue.tif").path_of({"plate": "P7", "well": "C03", "id": "2"})
        'P7/C03_2_blue.tif'
        """
        return re.sub(
            r"\*|\{([^}]*)\}",
            lambda part: part[0] if part[0] == _ANYTHING else parts[part[1] or "id"],
            self.text,
        )


BY_NAME: Final = "name:"
"""Prefix of the name of a channel, which can then be a number or contain blanks, commas, ``*`` or ``#``."""

BY_NUMBER: Final = "number:"
"""Prefix of the number of a channel, which is then not a name."""


@dataclass(frozen=True)
class Pick:
    """Where the image of a channel is.

    Attributes:
        pattern: The pattern of its files; None if all channels are in the same file.
        channel: The number (from 0) or name of the channel in the file; None if the file has only one.
        exact: Whether the user wrote ``name:`` or ``number:``.
    """

    pattern: FilePattern | None
    channel: int | str | None
    exact: bool = False

    @classmethod
    def parse(cls, text: str) -> Pick:
        """Return the pick for a description; see :func:`parse_channels`."""
        marked = [text.find(mark) for mark in (f"#{BY_NAME}", f"#{BY_NUMBER}") if mark in text]
        if text.startswith((BY_NAME, BY_NUMBER)):
            pattern, channel = "", text
        elif marked:
            pattern, channel = text[: min(marked)], text[min(marked) + 1 :]
        else:
            pattern, _, channel = text.rpartition("#") if "#" in text else (text, "", "")
            if "*" not in pattern and "{" not in pattern:
                pattern, channel = "", text
        files = FilePattern(pattern) if pattern else None
        if channel.startswith(BY_NAME):
            return cls(files, channel.removeprefix(BY_NAME).strip(), exact=True)
        number = channel.removeprefix(BY_NUMBER).strip()
        if channel.startswith(BY_NUMBER) and not number.isdecimal():
            raise SettingsError(f"`channels` contains {channel}, which is not a number.", hint="Write number:0.")
        return cls(files, int(number) if number.isdecimal() else channel or None, exact=channel.startswith(BY_NUMBER))

    def __str__(self) -> str:
        channel = "" if self.channel is None else str(self.channel)
        if self.exact:
            channel = (BY_NUMBER if isinstance(self.channel, int) else BY_NAME) + channel
        return channel if self.pattern is None else self.pattern.text + (f"#{channel}" if channel else "")

    def index(self, names: Sequence[str], *, axes: str = "") -> int:
        """Return the number of the channel in a file.

        Args:
            names: The names of the channels in the file.
            axes: The axes of a file with one channel but several planes, in words.

        Returns:
            The number, from 0.

        Raises:
            ImageError: If the channel does not exist, or is ambiguous.
        """
        what = ", ".join(f"{number} {name!r}" if name else str(number) for number, name in enumerate(names))
        named = f" ({what})" if any(names) else ""
        if self.channel is None:
            # Transparency is not a stain.
            stains = [number for number, name in enumerate(names) if name != "alpha"]
            if len(stains) != 1:
                raise ImageError(
                    f"The file has {len(names)} channels{named}, not one.",
                    hint=f"Give the channel, for example {self}#0.",
                )
            return stains[0]
        wanted = str(self.channel)
        matches = [number for number, name in enumerate(names) if self.exact and name == wanted]
        if not matches:
            matches = [number for number, name in enumerate(names) if _folded(name) == _folded(wanted)]
        if isinstance(self.channel, int):
            if not self.exact and matches and matches != [self.channel]:
                raise ImageError(
                    f"{self.channel} is ambiguous: channel {matches[0]} has this name. The channels are {what}.",
                    hint=f"Write {BY_NAME}{self.channel} for the name, or {BY_NUMBER}{self.channel} for the number.",
                )
            if self.channel >= len(names):
                stated = f" The axes of the file are {axes}." if axes else ""
                raise ImageError(
                    f"The file has no channel {self.channel}; counted from 0 its channels are {what}.{stated}",
                    hint="Say which axis has the channels, for example `axes='CYX'`."
                    if axes
                    else "Give another number, or files with this channel.",
                )
            return self.channel
        if len(matches) != 1:
            raise ImageError(
                f"The file has {'no channel' if not matches else f'{len(matches)} channels'} named {self.channel!r};"
                f" its channels are {what}.",
                hint="Give the number of the channel, counted from 0.",
            )
        return matches[0]


def _folded(name: str) -> str:
    """Return a name without case and blanks at its ends; composed and decomposed characters become equal."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


@dataclass(frozen=True)
class ChannelMap:
    """Where the images of all channels are.

    Attributes:
        picks: The pick of each channel, in the order of :func:`cytoloc.channels.channel_order`.
    """

    picks: dict[str, Pick]

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels, in order."""
        return tuple(self.picks)

    @property
    def one_file(self) -> bool:
        """Whether all channels of a field are in one file."""
        return all(pick.pattern is None for pick in self.picks.values())

    @property
    def note(self) -> dict[str, str]:
        """The map as JSON values."""
        return {name: str(pick) for name, pick in self.picks.items()}


def parse_channels(channels: Sequence[str] | Mapping[str, str | int]) -> ChannelMap:
    """Parse the argument ``channels``.

    Args:
        channels: A mapping from names to WHAT; or ``NAME=WHAT`` each, or several separated by commas. The name is one
            of :data:`cytoloc.channels.CHANNELS`, or another name. If WHAT contains ``*`` or ``{…}``, it is the pattern
            of the files of the channel, followed by ``#CHANNEL`` if these have several channels. Otherwise it is the
            number (from 0) or name of the channel in files that contain all channels. ``name:WHAT`` is always a
            name, which can contain commas, and ``number:WHAT`` always a number.

    Returns:
        The channel map.

    Raises:
        SettingsError: If a name is invalid or occurs twice, the protein is missing, two channels have the same image,
            or files with one channel are mixed with files that contain all.

    Examples:
        >>> parse_channels(["nucleus=DAPI,protein=1", "mito=2"]).note
        {'protein': '1', 'nucleus': 'DAPI', 'mito': '2'}
    """
    pairs = []
    if isinstance(channels, Mapping):
        texts = [f"{name}={what}" for name, what in channels.items()]
    else:
        texts = [part for each in channels for part in _parts(each)]
    for text in texts:
        name, _, what = (part.strip() for part in text.partition("="))
        if not name or not what:
            raise SettingsError(
                f"`channels` contains {text!r}, which is not NAME=WHAT.",
                hint=f"{_EXAMPLE} Known names are {', '.join(CHANNELS)}.",
            )
        pairs.append((name, what))
    names = [name for name, _ in pairs]
    try:
        check_channels(names)
    except ChannelError as error:
        near = next((name for name in names if name != PROTEIN and name.lower() == PROTEIN), None)
        hint = f" Write {PROTEIN} instead of {near}." if near else ""
        raise SettingsError(f"`channels`: {error.message}{hint}", hint=error.hint) from error
    found = {name: Pick.parse(what) for name, what in pairs}
    picks = {name: found[name] for name in channel_order(names)}
    seen: dict[str, str] = {}
    for name, pick in picks.items():
        other = seen.setdefault(str(pick), name)
        if other != name:
            raise SettingsError(
                f"`channels` gives {pick} for both {other} and {name}.",
                hint="Remove the channel that was not imaged; a dataset can have any number of channels.",
            )
    patterns = {pick.pattern is not None for pick in picks.values()}
    if len(patterns) > 1:
        raise SettingsError(
            "`channels` mixes patterns of files with channels of one file.",
            hint="Give a pattern for every channel; append the number of a channel with #, as in er=*_all.tif#3.",
        )
    varying = {tuple(sorted(pick.pattern.names)) for pick in picks.values() if pick.pattern}
    if len(varying) > 1:
        raise SettingsError(
            "The patterns in `channels` have different variable parts, so their files cannot be combined.",
            hint="Use the same variable parts in all patterns, for example {well}_{field}.",
        )
    return ChannelMap(picks)


def _parts(text: str) -> list[str]:
    """Return the parts of a text between commas. A part without ``=`` continues a name before it.

    >>> _parts("protein=name:Alexa 488, long,nucleus=0")
    ['protein=name:Alexa 488, long', 'nucleus=0']
    """
    parts: list[str] = []
    for part in text.split(","):
        if parts and BY_NAME in parts[-1] and "=" not in part:
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    return [part.strip() for part in parts]
