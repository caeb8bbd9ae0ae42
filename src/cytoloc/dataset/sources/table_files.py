"""Tables of files: a row per field with a column per channel, as for CellProfiler's LoadData, or a row per channel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlparse

import polars as pl

from cytoloc.dataset.sources.channels import ChannelMap, Pick
from cytoloc.dataset.sources.listing import ListedField, Listing
from cytoloc.errors import SettingsError, TableError
from cytoloc.files import sha256_of
from cytoloc.labels.lists import read_csv

_FILE: Final = re.compile(r"(?:Image_)?(?:FileName|File)_(.+)", re.IGNORECASE)
_FOLDER: Final = re.compile(r"(?:Image_)?(?:PathName|Path)_(.+)", re.IGNORECASE)
_URL: Final = re.compile(r"(?:Image_)?URL_(.+)", re.IGNORECASE)

_METADATA: Final[dict[str, tuple[str, ...]]] = {
    "plate": ("plate", "plateid", "platename", "barcode", "platebarcode"),
    "well": ("well", "wellid", "wellname", "wellposition"),
    "field": ("field", "site", "fieldid", "siteid", "fov", "fieldofview"),
    "time": ("time", "timepoint"),
    "antibody": ("antibody",),
    "gene": ("gene",),
    "cell_line": ("cellline",),
}
"""Names of columns of metadata, in any case, without blanks, ``_`` and the prefix ``Metadata_``."""

_ONE_CHANNEL: Final = ("channel", "path", "z")


@dataclass
class _Row:
    """The files and metadata of one field."""

    parts: dict[str, str]
    files: dict[str, dict[float, str]] = field(default_factory=dict)
    problem: str | None = None


def read_table_files(path: Path, folder: Path, channels: ChannelMap) -> Listing:
    """Return the files of each field in a table.

    With a row per field, the files of a channel are in the columns ``FileName_CHANNEL`` and ``PathName_CHANNEL``, in
    ``URL_CHANNEL``, or in a column with the name of the channel. With a row per channel, there are the columns
    ``channel`` and ``path``, and ``z`` if a row is a z plane. Ids are in a column ``id``; otherwise they consist of
    plate, well, field and time point. Columns of metadata can begin with ``Metadata_``.

    Args:
        path: The CSV file.
        folder: The folder of the files. Paths in the table can be absolute.
        channels: For each channel of the dataset, the name of the channel in the table, followed by ``#`` and the
            channel in the file if a file has several.

    Returns:
        The files.

    Raises:
        TableError: If the table cannot be read, has no such columns, or ids are missing or repeat.
        SettingsError: If a channel is not in the table.
    """
    table = read_csv(path)
    lower = {name.lower(): name for name in table.columns}
    if not table.height:
        raise TableError(f"{path} has no rows.", hint="Give a row for each field, or for each channel of a field.")
    # The name of a channel in the table, and the channel in its files.
    wanted: dict[str, tuple[str, int | str | None]] = {}
    for role, pick in channels.picks.items():
        name, _, inner = str(pick).partition("#")
        wanted[role] = name, int(inner) if inner.isdecimal() else inner or None
    by_channel = "channel" in lower and "path" in lower
    rows = _rows_by_channel(table, lower, path) if by_channel else _rows_by_field(table, path, wanted.values())
    have = sorted({name for row in rows.values() for name in row.files})
    places: dict[str, str] = {}
    for role, (name, _) in wanted.items():
        matches = [each for each in have if each.casefold() == name.casefold()]
        if len(matches) != 1:
            raise SettingsError(
                f"{path} has no channel {name!r} for {role}; its channels are {', '.join(have) or 'unknown'}.",
                hint="Give the name of a channel in the table, or add the columns FileName_CHANNEL.",
            )
        places[role] = matches[0]
    fields = {name: _listed(row, places, wanted, folder) for name, row in rows.items()}
    return Listing(
        command="import folder",
        source="folder",
        fields=fields,
        channels=ChannelMap({role: Pick(None, inner) for role, (_, inner) in wanted.items()}),
        note={"table_sha256": sha256_of(path), "channels": channels.note},
    )


def _rows_by_field(table: pl.DataFrame, path: Path, wanted: Iterable[tuple[str, object]]) -> dict[str, _Row]:
    """Return the rows of a table with a row per field, by id."""
    columns: dict[str, tuple[str | None, str]] = {}
    folders = {found[1]: name for name in table.columns if (found := _FOLDER.fullmatch(name))}
    for name in table.columns:
        if found := _FILE.fullmatch(name):
            columns[found[1]] = (folders.get(found[1]), name)
        elif found := _URL.fullmatch(name):
            columns.setdefault(found[1], (None, name))
    for channel, _ in wanted:
        plain = next((name for name in table.columns if name.casefold() == channel.casefold()), None)
        if plain and not any(known.casefold() == channel.casefold() for known in columns):
            columns[plain] = (None, plain)
    rows: dict[str, _Row] = {}
    metadata = _metadata_columns(table)
    for number, values in enumerate(table.iter_rows(named=True), start=1):
        parts = _parts_of(values, metadata)
        name = _id_of(values, parts, path, number)
        if name in rows:
            raise TableError(
                f"{path} has two rows for the field {name}.",
                hint="Give a column id with a unique id for each row, or the columns plate, well and field.",
            )
        row = rows[name] = _Row(parts)
        for channel, (place, file) in columns.items():
            if values[file]:
                before = f"{values[place]}/" if place and values[place] else ""
                row.files[channel] = {0.0: f"{before}{values[file]}"}
    return rows


def _rows_by_channel(table: pl.DataFrame, lower: Mapping[str, str], path: Path) -> dict[str, _Row]:
    """Return the rows of a table with a row per channel, by id."""
    rows: dict[str, _Row] = {}
    metadata = _metadata_columns(table)
    channel, place, depth = (lower.get(name) for name in _ONE_CHANNEL)
    for number, values in enumerate(table.iter_rows(named=True), start=1):
        parts = _parts_of(values, metadata)
        name = _id_of(values, parts, path, number)
        row = rows.setdefault(name, _Row(parts))
        text, file = values[channel or ""], values[place or ""]
        if not text or not file:
            continue
        if row.parts != parts:
            raise TableError(
                f"{path}, row {number} after the header: the metadata of {name} differ from those in an earlier row.",
                hint="Give the same plate, well and field in all rows of a field.",
            )
        z = values[depth] if depth else None
        try:
            at = float(z) if z else 0.0
        except ValueError:
            raise TableError(
                f"{path}, row {number} after the header: z is {z!r}.", hint="Give the number of the z plane."
            ) from None
        other = row.files.setdefault(text, {}).setdefault(at, file)
        if other != file:
            row.problem = f"the table has two files for the channel {text}: {other} and {file}"
    return rows


def _metadata_columns(table: pl.DataFrame) -> dict[str, str]:
    """Return the column of each kind of metadata that the table has."""
    plain = {re.sub(r"^metadata|[ _-]", "", name.lower()): name for name in reversed(table.columns)}
    return {kind: plain[name] for kind, names in _METADATA.items() for name in reversed(names) if name in plain}


def _parts_of(values: Mapping[str, str | None], metadata: Mapping[str, str]) -> dict[str, str]:
    return {kind: text for kind, column in metadata.items() if (text := values[column])}


def _id_of(values: Mapping[str, str | None], parts: Mapping[str, str], path: Path, number: int) -> str:
    """Return the id of a row."""
    name = values.get("Id") or "_".join(parts[kind] for kind in ("plate", "well", "field", "time") if kind in parts)
    if not name:
        raise TableError(
            f"{path}, row {number} after the header: there is no id, and no plate, well or field.",
            hint="Add a column id, or the columns plate, well and field.",
        )
    return name


def _listed(
    row: _Row, places: Mapping[str, str], wanted: Mapping[str, tuple[str, int | str | None]], folder: Path
) -> ListedField:
    """Return the files of the wanted channels of a row."""
    files, problem = dict[str, tuple[str, ...]](), row.problem
    for role, channel in places.items():
        planes = row.files.get(channel, {})
        if not planes:
            problem = problem or f"the table has no file of the channel {channel}"
            continue
        paths = []
        for z in sorted(planes):
            # A path, a path of Windows, or a file: URL. It becomes a path relative to the folder.
            text = planes[z].strip()
            if text.lower().startswith("file:"):
                text = unquote(urlparse(text).path)
            if "\\" in text and not (folder / text).exists():
                text = text.replace("\\", "/")
            paths.append(os.path.normpath(text).removeprefix(f"{folder.absolute()}{os.sep}"))
        files[role] = tuple(paths)
    inner = {role: f" #{channel}" if channel is not None else "" for role, (_, channel) in wanted.items()}
    return ListedField(
        files=files,
        parts={kind: text for kind, text in row.parts.items() if kind != "time"},
        problem=problem,
        called={role: f"{name!r}{inner[role]}" for role, name in places.items()},
    )
