"""The competition's own form: a folder of ``{Id}_{red,green,blue,yellow}.png`` or ``.tif``, and a CSV ``Id,Target``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS, COLORS, HPA_COLORS
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.importing import Loaded
from cytoloc.dataset.sources.joint import find_joint_bounds, joint_note
from cytoloc.dataset.sources.labeling import listed_fields
from cytoloc.errors import ImageError
from cytoloc.files import sha256_of
from cytoloc.images.codecs import Pixels, read_gray_png
from cytoloc.images.decoding import located
from cytoloc.images.depth import DepthRule, JointBounds, all_to_8_bit
from cytoloc.images.formats.tiff import read_gray_tiff
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.labels.label_set import LabelSet

KAGGLE_SUFFIXES = (".png", ".tif", ".tiff")

Suffixes = tuple[str | None, ...]
"""The suffix of the file of each color of a field; None where there is no file."""


class KaggleSource:
    """The fields in a folder of competition files.

    Args:
        folder: Holds ``{Id}_{red,green,blue,yellow}`` as PNG or TIFF, 8 or 16 bits.
        labels: CSV ``Id,Target``; its fields, in its order, are imported. Without it every field in the folder is,
            unlabeled, in order of id.
        label_set: The locations that the labels refer to; by default ``hpa28``.
        scaling: How images become squares.
        depth: How 16 bits become 8.
        limit: Import only the first so many.

    Raises:
        ImageError: If the folder holds no fields.
        TableError: If the labels are not valid, or of none of the fields.
    """

    quick = True
    channels: tuple[str, ...] = CHANNELS

    def __init__(
        self,
        folder: Path,
        *,
        labels: Path | None,
        label_set: LabelSet | None = None,
        scaling: Scaling,
        depth: DepthRule | None = None,
        limit: int | None = None,
    ) -> None:
        self.folder = folder
        self.label_set = label_set or LabelSet.hpa28()
        self.scaling = scaling
        self.depth = depth or DepthRule()
        self._joint: tuple[JointBounds | None, ...] | None = None
        self.found = find_kaggle_fields(folder)
        self.labels = listed_fields(labels, self.label_set, self.found, folder=folder) if labels else None
        self.items = list(islice(self.found if self.labels is None else self.labels, limit))
        self.made_by: dict[str, Any] = {
            "command": "import kaggle",
            "labels_sha256": sha256_of(labels) if labels else None,
            "scaling": {"square": scaling.square, "enlarge": scaling.enlarge},
            "depth": {"low": self.depth.low, "high": self.depth.high, "floor": self.depth.floor},
        }

    def measure_jointly(self, advance: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Find one pair of bounds per channel from all fields, to be used instead of each field's own."""
        self._joint = find_joint_bounds(
            self.items,
            lambda item: [read_kaggle_planes(self.folder, item, self.found.get(item, {}))],
            self.depth,
            channels=len(CHANNELS),
            advance=advance,
        )
        self.made_by["depth"]["jointly"] = joint_note(self._joint)

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        """Return what loads the field ``item``; it can be sent to another process."""
        files = self.found.get(item, {})
        labels = self.labels[item] if self.labels is not None else None
        return partial(
            _load_kaggle, self.folder, item, files, labels, scaling=self.scaling, depth=self.depth, joint=self._joint
        )


def _load_kaggle(
    folder: Path,
    name: str,
    files: dict[str, str],
    labels: tuple[int, ...] | None,
    *,
    scaling: Scaling,
    depth: DepthRule,
    joint: tuple[JointBounds | None, ...] | None,
) -> list[Loaded]:
    planes = read_kaggle_planes(folder, name, files)
    with located(f"field {name}"):
        eight = all_to_8_bit(planes, depth, joint)
        packed = scale_field(eight.image, scaling).image
    row = FieldRow(
        id=name,
        source="kaggle",
        labels=labels,
        original_px=eight.image.shape[1],
        original_width_px=eight.image.shape[2],
        black=eight.black,
        white=eight.white,
    )
    return [(row, packed)]


def read_kaggle_field(
    folder: Path, name: str, files: dict[str, str] | None = None, *, channels: Sequence[str] = CHANNELS
) -> UInt8Array:
    """Return a field with 8 bits, uint8 ``(channels, height, width)``; see :func:`read_kaggle_planes`."""
    planes = read_kaggle_planes(folder, name, files, channels=channels)
    with located(f"field {name}"):
        return all_to_8_bit(planes, DepthRule(), called=channels).image


def read_kaggle_planes(
    folder: Path, name: str, files: dict[str, str] | None = None, *, channels: Sequence[str] = CHANNELS
) -> list[Pixels]:
    """Return the channels of a field, ``(height, width)`` each, as they are in the files.

    Args:
        folder: Where the files are.
        name: The id of the field.
        files: The name of the file of each color, as :func:`find_kaggle_fields` gives them; by default
            ``{name}_{color}.png``.
        channels: Which channels, any of :data:`cytoloc.channels.CHANNELS`.

    Raises:
        ImageError: If a file is missing or damaged, or the files differ in size.
    """
    colors = [HPA_COLORS[role] for role in channels]
    if files is None:
        files = {color: f"{name}_{color}.png" for color in colors}
    lacking = [color for color in colors if color not in files]
    if lacking:
        raise ImageError(
            f"{folder}: field {name} lacks its file {name}_{lacking[0]}.png.",
            hint=f"Every field needs a file for each of {', '.join(colors)}.",
        )
    paths = [folder / files[color] for color in colors]
    planes = [read_gray_png(path) if path.suffix.lower() == ".png" else read_gray_tiff(path) for path in paths]
    for color, plane in zip(colors, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise ImageError(
                f"{folder}: field {name} has two sizes: {files[colors[0]]} is {_size(planes[0])} px,"
                f" {files[color]} is {_size(plane)} px.",
                hint="All channels of a field must show the same pixels.",
            )
    return planes


class KaggleFiles(Mapping[str, dict[str, str]]):
    """For each field id in a folder, in order, the name of the file of each color that is there.

    Args:
        folder: Holds them.

    Attributes:
        unmatched: How many other images it holds.

    Raises:
        ImageError: If a channel is there twice.
    """

    def __init__(self, folder: Path) -> None:
        self.unmatched = 0
        found: dict[str, Suffixes] = {}
        # Millions of fields have few different suffixes, so they share them.
        shared: dict[Suffixes, Suffixes] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, dot, suffix = entry.name.rpartition(".")
                name, _, color = stem.rpartition("_")
                if dot + suffix.lower() not in KAGGLE_SUFFIXES:
                    continue
                if not name or color not in COLORS:
                    self.unmatched += 1
                    continue
                place = COLORS.index(color)
                before = found.get(name, (None,) * len(COLORS))
                if before[place] is not None:
                    one, other = sorted((f"{stem}{before[place]}", entry.name))
                    raise ImageError(f"{folder} holds both {one} and {other}.", hint="Keep one of them.")
                now = (*before[:place], dot + suffix, *before[place + 1 :])
                found[name] = shared.setdefault(now, now)
        self._suffixes = {name: found[name] for name in sorted(found)}

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that any field has a file of."""
        return tuple(
            role for place, role in enumerate(CHANNELS) if any(each[place] for each in set(self._suffixes.values()))
        )

    def __getitem__(self, name: str) -> dict[str, str]:
        each = zip(COLORS, self._suffixes[name], strict=True)
        return {color: f"{name}_{color}{suffix}" for color, suffix in each if suffix is not None}

    def __iter__(self) -> Iterator[str]:
        return iter(self._suffixes)

    def __len__(self) -> int:
        return len(self._suffixes)


def find_kaggle_fields(folder: Path) -> KaggleFiles:
    """Return for each field id in ``folder`` the file of each color that is there.

    Raises:
        ImageError: If there is no such folder, no file in it is named like a channel, or a channel is there twice.
    """
    if folder.is_file():
        raise ImageError(f"{folder} is a file, not a folder.", hint="Give the folder that holds the images.")
    if not folder.is_dir():
        raise ImageError(f"{folder}: there is no such folder.", hint="Give the folder that holds the images.")
    found = KaggleFiles(folder)
    if not found:
        hint = " JPEG files are for `cytoloc import hpa` or `import folder`." if any(folder.glob("*.jp*g")) else ""
        raise ImageError(
            f"{folder} holds no fields.",
            hint="A field is four files named {Id}_red.png, {Id}_green.png, {Id}_blue.png"
            f" and {{Id}}_yellow.png (or .tif).{hint}",
        )
    return found


def _size(plane: Pixels) -> str:
    return f"{plane.shape[1]} x {plane.shape[0]}"
