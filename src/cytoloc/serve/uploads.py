"""Requests with images: what clients send, and the files of each field."""

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile

from cytoloc.channels import PROTEIN, check_channels
from cytoloc.dataset.quarantine import printable, refuse_unprintable
from cytoloc.errors import ChannelError, ImageError, SettingsError
from cytoloc.predict.planes import parse_substitutes
from cytoloc.serve.reading import SUFFIXES, UploadedField, check_picks

ALL_CHANNELS: Final = "image"
"""The name of the form field of files that contain all channels of a field."""

ONCE: Final = ("channels", "tta", "pixel_um")
"""The names of the other form fields that a request has at most once."""

OTHER_FIELDS: Final = (*ONCE, "absent", "id")
"""The names of all form fields without files."""

LONGEST_ID: Final = 200
"""Maximum length of an id that a client gives, in characters."""


@dataclass(frozen=True)
class Upload:
    """The content of a request.

    Attributes:
        fields: The files of each field.
        absent: The substitute for each channel that was not imaged.
        tta: Number of test-time augmentation views; None for the number that the model states.
    """

    fields: tuple[UploadedField, ...]
    absent: dict[str, str]
    tta: int | None


class UploadFiles:
    """The files of a request, in the folder of all uploads, under names that the service chooses.

    All requests share the folder, because making and removing folders takes time.

    Args:
        folder: The folder of all uploads.
    """

    def __init__(self, folder: Path) -> None:
        self._start = folder / secrets.token_hex(8)
        self._paths: list[Path] = []

    def new(self, name: str) -> Path:
        """Return the path of a new file, which ends with a name."""
        self._paths.append(self._start.with_name(f"{self._start.name}-{name}"))
        return self._paths[-1]

    def remove(self) -> None:
        """Remove the files."""
        for path in self._paths:
            # A reader that was stopped can still have the file open, which Windows refuses to remove.
            with suppress(OSError):
                path.unlink()


@contextmanager
def upload_files(folder: Path, *, is_kept: bool = False) -> Iterator[UploadFiles]:
    """Provide the files of a request, and remove them at the end of the block.

    Args:
        folder: The folder of all uploads.
        is_kept: Whether to remove the files only if the block raises.

    Yields:
        The files.
    """
    files = UploadFiles(folder)
    try:
        yield files
    except BaseException:
        files.remove()
        raise
    if not is_kept:
        files.remove()


def save_upload(form: FormData, space: UploadFiles, *, channels: Sequence[str], max_fields: int) -> Upload:
    """Save the files of a form.

    Args:
        form: The form. ``image`` contains one or more files with all channels, each a field, and ``channels`` says
            which channel is where in them. Or a form field for each channel contains its files; the files at the same
            position belong to one field.
        space: Where the files are saved.
        channels: The channels of the model, in order.
        max_fields: Maximum number of fields.

    Returns:
        The content of the request.

    Raises:
        ArgumentTypeError, SettingsError, ChannelError, ImageError: If the form is invalid.
        OSError: If a file cannot be saved, for example because the disk is full.
    """
    files: dict[str, list[UploadFile]] = {}
    texts: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.setdefault(name, []).append(value)
        else:
            texts.setdefault(name, []).append(str(value))
    unknown = sorted(set(texts) - set(OTHER_FIELDS))
    if unknown:
        raise SettingsError(
            f"The form has the unknown field {unknown[0][:80]!r}.", hint=f"Known are {', '.join(OTHER_FIELDS)}."
        )
    if not files:
        raise ImageError("The request contains no image.", hint=f"Send a file {ALL_CHANNELS}, or one per channel.")
    for name in ONCE:
        if len(texts.get(name, [])) > 1:
            raise SettingsError(
                f"The form has `{name}` {len(texts[name])} times.", hint=f"Send `{name}` once, for all images."
            )
    check_channels([PROTEIN, *(name for name in files if name not in (ALL_CHANNELS, PROTEIN))])
    absent = parse_substitutes(texts.get("absent", []))
    picks, in_order = _picks(texts, files, [name for name in channels if name == PROTEIN or name not in absent])
    counts = {name: len(found) for name, found in files.items()}
    if len(set(counts.values())) > 1 or (ALL_CHANNELS in files and len(files) > 1):
        each = ", ".join(f"{name[:40]} {count}" for name, count in counts.items())
        raise ImageError(
            f"The channels have different numbers of files: {each}.",
            hint=f"Send the same number of files for each channel, or only {ALL_CHANNELS}.",
        )
    count = next(iter(counts.values()))
    if count > max_fields:
        raise ImageError(
            f"The request contains {count} fields, but at most {max_fields} are allowed.",
            hint="Send a batch job, or several requests.",
        )
    ids = _ids(texts.get("id", []), files, count)
    pixel_um = _pixel_um(texts)
    fields = []
    for number, name in enumerate(ids):
        saved = {
            channel: _save(found[number], space, f"{number}-{place}")
            for place, (channel, found) in enumerate(files.items())
        }
        where = dict.fromkeys(picks, saved[ALL_CHANNELS]) if ALL_CHANNELS in saved else saved
        fields.append(UploadedField(name=name, files=where, picks=picks, in_order=in_order, pixel_um=pixel_um))
    tta = next(iter(texts.get("tta", [])), "").strip()
    if tta not in ("", "1", "2", "4", "8"):
        raise SettingsError(f"Invalid number of TTA views: {tta[:20]}.", hint="Choose 1, 2, 4 or 8.")
    return Upload(tuple(fields), absent, int(tta) if tta else None)


def _picks(
    texts: Mapping[str, list[str]], files: Mapping[str, Any], channels: Sequence[str]
) -> tuple[dict[str, int | str | None], bool]:
    """Return the number or name of each channel in its file, and whether the file must have exactly these, in order."""
    given = next(iter(texts.get("channels", [])), "")
    content: object = list(channels) if ALL_CHANNELS in files else {}
    if given:
        try:
            content = json.loads(given)
        except (ValueError, RecursionError):  # not JSON, or a number with too many digits
            content = [word.strip() for word in given.split(",")]
    picks = check_picks(content) if content or given else {}
    if isinstance(content, list) and ALL_CHANNELS not in files:
        raise SettingsError(
            "`channels` lists the channels of one file, but each channel has its own file.", hint="Remove `channels`."
        )
    if ALL_CHANNELS in files:
        check_channels(list(picks))
        if len({*picks.values()}) < len(picks):
            raise ChannelError(
                "`channels` has the same number or name for two channels.",
                hint="Correct it. If one of them was not imaged, leave it out, and send `absent` for it.",
            )
    elif extra := sorted(set(picks) - set(files)):
        raise ChannelError(
            f"`channels` names {extra[0]}, but no file was sent for it.",
            hint="Remove it from `channels`, or send its file.",
        )
    return picks, isinstance(content, list) and ALL_CHANNELS in files


def _ids(given: Sequence[str], files: Mapping[str, list[UploadFile]], count: int) -> list[str]:
    """Return the id of each field: as given, or from the names of its files."""
    if given and len(given) != count:
        raise SettingsError(f"There are {len(given)} ids for {count} fields.", hint="Send one id per field, or none.")
    names = [name.strip() for name in given]
    for number, name in enumerate(names):
        if not 1 <= len(name) <= LONGEST_ID or printable(name) != name:
            raise SettingsError(
                f"The id of field {number + 1} is empty, too long, or has characters that cannot be printed.",
                hint=f"Send ids of 1 to {LONGEST_ID} characters.",
            )
        if name in names[:number]:
            raise SettingsError(f"The id {name!r} occurs twice.", hint="Send each id once.")
    if names:
        return names
    found = [name[:LONGEST_ID].strip() or f"{number + 1}" for number, name in enumerate(_file_ids(files))]
    for name in found:
        refuse_unprintable(name)
    return numbered(found)


def numbered(names: Sequence[str]) -> list[str]:
    """Return names that all differ: names that occur again get a number.

    >>> numbered(["a", "b", "a", "a_2", "a"])
    ['a', 'b', 'a_2', 'a_2_2', 'a_3']
    """
    unique: dict[str, None] = {}
    copies: Counter[str] = Counter()
    for name in names:
        new = name
        while new in unique:
            copies[name] += 1
            new = f"{name}_{copies[name] + 1}"
        unique[new] = None
    return list(unique)


def _file_ids(files: Mapping[str, list[UploadFile]]) -> list[str]:
    """Return what the names of the files of each field have in common, or the name of its protein file."""
    stems = {channel: [_stem(file) for file in found] for channel, found in files.items()}
    common = [_common_words(names) for names in zip(*stems.values(), strict=True)]
    return common if all(common) and len(set(common)) == len(common) else stems.get(PROTEIN, next(iter(stems.values())))


def _common_words(names: Sequence[str]) -> str:
    """Return the words that several names have in common, such as ``C03_2`` of ``C03_red_2`` and ``C03_green_2``."""
    words = [re.split(r"[_\-. ]", name) for name in names]
    if len({len(each) for each in words}) > 1:
        return ""
    marks = ["", *re.findall(r"[_\-. ]", names[0])]
    kept = [
        mark + several[0]
        for mark, several in zip(marks, zip(*words, strict=True), strict=True)
        if len(set(several)) == 1
    ]
    return "".join(kept).strip("_-. ")


def _stem(file: UploadFile) -> str:
    """Return the name of a file without its suffix."""
    name, suffix = _name_and_suffix(file)
    return re.sub(r"\.ome$", "", name[: len(name) - len(suffix)], flags=re.IGNORECASE)


def _name_and_suffix(file: UploadFile) -> tuple[str, str]:
    """Return the name of a file without folders, and its suffix in lower case, such as ``.tif``; empty if unknown."""
    name = PureWindowsPath(PurePosixPath(file.filename or "").name).name
    return name, next((end for end in SUFFIXES if name.lower().endswith(end)), "")


def _save(file: UploadFile, space: UploadFiles, saved_name: str) -> Path:
    """Save a file under a name of our own, with the ending of its name."""
    name, suffix = _name_and_suffix(file)
    name = name.lower()
    if not suffix:
        raise ImageError(
            f"The file {name[-80:]!r} is not of a supported kind.", hint=f"Send files ending in {', '.join(SUFFIXES)}."
        )
    saved = space.new(saved_name + suffix)
    with saved.open("wb") as stream:
        shutil.copyfileobj(file.file, stream, 1024 * 1024)
    if not saved.stat().st_size:
        raise ImageError(f"The file {name[-80:]!r} is empty (0 bytes).", hint="Send the file again.")
    return saved


def _pixel_um(texts: Mapping[str, list[str]]) -> float | None:
    """Return the pixel size."""
    text = next(iter(texts.get("pixel_um", [])), "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.001 <= value <= 100:
        raise SettingsError(f"`pixel_um` is {text[:20]!r}, but must be a number from 0.001 to 100.")
    return value
