"""Image files of the 2018 Kaggle competition: ``{Id}_{red,green,blue,yellow}.png`` or ``.tif``."""

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
"""The suffix of the file of each color of a field; None if there is no file."""


class KaggleSource:
    """The fields in a folder of image files of the 2018 Kaggle competition.

    Args:
        folder: Folder of ``{Id}_{red,green,blue,yellow}`` files, PNG or TIFF, with 8 or 16 bits.
        labels: CSV file with columns ``Id,Target``; its fields are imported, in its order. Default: all fields in the
            folder, unlabeled, in order of id.
        label_set: The label set of the labels. Default: ``hpa28``.
        scaling: How images are scaled to squares.
        depth: How 16-bit images are converted to 8 bits.
        limit: Maximum number of fields; the first ones are imported.

    Raises:
        ImageError: If the folder contains no fields.
        TableError: If the labels are invalid, or none of the labeled fields is in the folder.
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
            "scaling": {"square": scaling.square, "enlarge": scaling.enlarge, "resample": scaling.resample},
            "depth": {"low": self.depth.low, "high": self.depth.high, "floor": self.depth.floor},
        }

    def measure_jointly(self, advance: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Determine one pair of bounds per channel over all fields, to use instead of the bounds of each field."""
        self._joint = find_joint_bounds(
            self.items,
            lambda item: [read_kaggle_planes(self.folder, item, self.found.get(item, {}))],
            self.depth,
            channels=len(CHANNELS),
            advance=advance,
        )
        self.made_by["depth"]["jointly"] = joint_note(self._joint)

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        """Return a function that loads the field ``item``. It can be pickled."""
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
        flags=eight.flags(CHANNELS),
    )
    return [(row, packed)]


def read_kaggle_field(
    folder: Path, name: str, files: dict[str, str] | None = None, *, channels: Sequence[str] = CHANNELS
) -> UInt8Array:
    """Read a field with 8 bits, uint8 of shape ``(channels, height, width)``; see :func:`read_kaggle_planes`."""
    planes = read_kaggle_planes(folder, name, files, channels=channels)
    with located(f"field {name}"):
        return all_to_8_bit(planes, DepthRule(), called=channels).image


def read_kaggle_planes(
    folder: Path, name: str, files: dict[str, str] | None = None, *, channels: Sequence[str] = CHANNELS
) -> list[Pixels]:
    """Read the channels of a field as stored, shape ``(height, width)`` each.

    Args:
        folder: The folder.
        name: The id of the field.
        files: The file name for each color, from :func:`find_kaggle_fields`. Default: ``{name}_{color}.png``.
        channels: The channels to read, any of :data:`cytoloc.channels.CHANNELS`.

    Returns:
        One array per channel.

    Raises:
        ImageError: If a file is missing or damaged, or the files differ in size.
    """
    colors = [HPA_COLORS[role] for role in channels]
    if files is None:
        files = {color: f"{name}_{color}.png" for color in colors}
    lacking = [color for color in colors if color not in files]
    if lacking:
        raise ImageError(
            f"{folder}: the file {name}_{lacking[0]}.png of field {name} is missing.",
            hint=f"Give a file for each of {', '.join(colors)}.",
        )
    paths = [folder / files[color] for color in colors]
    planes = [read_gray_png(path) if path.suffix.lower() == ".png" else read_gray_tiff(path) for path in paths]
    for color, plane in zip(colors, planes, strict=True):
        if plane.shape != planes[0].shape:
            raise ImageError(
                f"{folder}: the files of field {name} differ in size: {files[colors[0]]} has {_size(planes[0])} px,"
                f" {files[color]} has {_size(plane)} px.",
                hint="Give images of the same size for all channels of a field.",
            )
    return planes


class KaggleFiles(Mapping[str, dict[str, str]]):
    """The file names of each field in a folder, by color, ordered by id.

    Args:
        folder: The folder.

    Attributes:
        unmatched: The number of other image files.

    Raises:
        ImageError: If a channel of a field has two files.
    """

    def __init__(self, folder: Path) -> None:
        self.unmatched = 0
        found: dict[str, Suffixes] = {}
        # Millions of fields have few different combinations of suffixes, so these are shared.
        shared: dict[Suffixes, Suffixes] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, dot, suffix = entry.name.rpartition(".")
                name, _, color = stem.rpartition("_")
                # macOS writes hidden files ._NAME beside files on other disks.
                if dot + suffix.lower() not in KAGGLE_SUFFIXES or entry.name.startswith("."):
                    continue
                if not name or color not in COLORS:
                    self.unmatched += 1
                    continue
                place = COLORS.index(color)
                before = found.get(name, (None,) * len(COLORS))
                if before[place] is not None:
                    one, other = sorted((f"{stem}{before[place]}", entry.name))
                    raise ImageError(f"{folder} contains both {one} and {other}.", hint="Remove one of them.")
                now = (*before[:place], dot + suffix, *before[place + 1 :])
                found[name] = shared.setdefault(now, now)
        self._suffixes = {name: found[name] for name in sorted(found)}

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels for which there are files."""
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
    """Find the fields in a folder.

    Args:
        folder: The folder.

    Returns:
        The file names of each field, by color.

    Raises:
        ImageError: If the folder does not exist, contains no fields, or has two files for a channel.
    """
    if folder.is_file():
        raise ImageError(f"{folder} is a file, not a folder.", hint="Give the folder of the image files.")
    if not folder.is_dir():
        raise ImageError(f"The folder {folder} does not exist.", hint="Give the folder of the image files.")
    found = KaggleFiles(folder)
    if not found:
        hint = " For JPEG files use `cytoloc import hpa` or `import folder`." if any(folder.glob("*.jp*g")) else ""
        raise ImageError(
            f"{folder} contains no fields.",
            hint="Name the four files of a field {Id}_red.png, {Id}_green.png, {Id}_blue.png"
            f" and {{Id}}_yellow.png (or .tif).{hint}",
        )
    return found


def _size(plane: Pixels) -> str:
    return f"{plane.shape[1]} x {plane.shape[0]}"
