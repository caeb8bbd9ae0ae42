"""Lists of the files of each field, from an index of a plate or from a table, instead of patterns of file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cytoloc.dataset.sources.channels import ChannelMap, Pick


@dataclass(frozen=True, kw_only=True)
class ListedField:
    """The files of one field.

    Attributes:
        files: The files of each channel, relative to the folder. Several files are z planes of a stack.
        parts: Any of ``plate``, ``well``, ``field``, ``antibody``, ``gene`` and ``cell_line``.
        picks: Where the image of each channel is in its file; None if each file has one channel.
        time: The time point in the files, from 0; None if they have only one.
        pixel_um: Pixel size in micrometers, as the list states it.
        problem: Why the field cannot be imported; None if nothing is known.
        called: What the image of each channel is called in the list.
    """

    files: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, str]
    picks: Mapping[str, Pick] | None = None
    time: int | None = None
    pixel_um: float | None = None
    problem: str | None = None
    called: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of all fields of an import.

    Attributes:
        command: The command of the import, for the dataset.
        source: The source of the fields, for the table of the dataset.
        fields: The fields, by id.
        channels: The channels of the dataset.
        note: What the list was made from, as JSON values.
        unmatched: The number of other image files.
    """

    command: str
    source: str
    fields: Mapping[str, ListedField]
    channels: ChannelMap
    note: dict[str, Any] = field(default_factory=dict)
    unmatched: int = 0


def zarr_itself(folder: Path, channels: ChannelMap) -> Listing:
    """Return the list of an import of a path that is an OME-Zarr, and not a folder with several.

    Args:
        folder: The OME-Zarr.
        channels: The channels of the dataset, and where they are in the file.

    Returns:
        One field, whose scenes become fields if there are several.
    """
    name = re.sub(r"(\.ome)?(\.zarr(\.zip)?|\.ozx)$", "", folder.absolute().name, flags=re.IGNORECASE)
    files = dict.fromkeys(channels.picks, (".",))
    return Listing(
        command="import folder",
        source="folder",
        fields={name: ListedField(files=files, parts={})},
        channels=channels,
    )
