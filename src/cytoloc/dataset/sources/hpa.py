"""JPEG files of the Human Protein Atlas: ``{antibody}_{plate}_{well}_{field}_{color}.jpg``, one per channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cytoloc.channels import CHANNELS, COLORS
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.importing import Loaded
from cytoloc.dataset.manifest import holds_dataset
from cytoloc.dataset.sources.labeling import listed_fields
from cytoloc.errors import ImageError
from cytoloc.files import sha256_of, walk_files
from cytoloc.images.codecs import read_stain_jpeg
from cytoloc.images.decoding import located
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.labels.hpa_names import parse_hpa_id
from cytoloc.labels.label_set import LabelSet

Place = tuple[str, bool, str]
"""The location of a file: its folder, whether its name lacks the antibody, and its suffix."""

Places = tuple[Place | None, ...]
"""The location of the file of each color of a field; None if there is no file."""


class HpaSource:
    """The fields in a folder of JPEG files of the Human Protein Atlas.

    Args:
        folder: Folder of ``{antibody}_{plate}_{well}_{field}_{color}.jpg`` files; or, as on the server of the Human
            Protein Atlas, a folder per antibody with ``{plate}_{well}_{field}_{color}.jpg`` files. If neither names the
            antibody, it is unknown.
        labels: CSV file with columns ``Id,Target`` and ids ``{antibody}_{plate}_{well}_{field}``. Default: all fields
            in the folder, unlabeled.
        label_set: The label set of the labels. Default: ``hpa28``.
        scaling: How images are scaled to squares.
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
        limit: int | None = None,
    ) -> None:
        self.folder = folder
        self.label_set = label_set or LabelSet.hpa28()
        self.scaling = scaling
        self.found = find_hpa_fields(folder)
        self.labels = listed_fields(labels, self.label_set, self.found, folder=folder) if labels else None
        self.items = list(islice(self.found if self.labels is None else self.labels, limit))
        self.made_by: dict[str, Any] = {
            "command": "import hpa",
            "labels_sha256": sha256_of(labels) if labels else None,
            "scaling": {"square": scaling.square, "enlarge": scaling.enlarge, "resample": scaling.resample},
            "planes": "red, green and blue of their own color; yellow the mean of red and green",
        }

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        """Return a function that loads the field ``item``. It can be pickled."""
        labels = self.labels[item] if self.labels is not None else None
        return partial(_load_hpa, self.folder, item, self.found.get(item, {}), labels, self.scaling)


def _load_hpa(
    folder: Path, name: str, files: dict[str, str], labels: tuple[int, ...] | None, scaling: Scaling
) -> list[Loaded]:
    parts = parse_hpa_id(name)
    if parts is None:
        raise ImageError(
            f"{name} is not the id of a field of the Human Protein Atlas.",
            hint="Use ids {antibody}_{plate}_{well}_{field}, for example 10580_1610_C1_1.",
        )
    planes, edges = [], []
    for role, color in zip(CHANNELS, COLORS, strict=True):
        if color not in files:
            raise ImageError(
                f"{folder}: the file {name}_{color}.jpg of field {name} is missing.",
                hint="Give the four files of each field.",
            )
        # Images are decoded at a reduced size if this is sufficient.
        stain = read_stain_jpeg(folder / files[color], role, at_least=scaling.size)
        planes.append(stain.plane)
        edges.append(stain.original)
    if len(set(edges)) > 1:
        sizes = ", ".join(f"{color} {w} x {h} px" for color, (h, w) in zip(COLORS, edges, strict=True))
        raise ImageError(
            f"{folder}: the files of field {name} differ in size: {sizes}.",
            hint="Give images of the same size for all channels of a field.",
        )
    height, width = edges[0]
    with located(f"field {name}"):
        packed = scale_field(np.stack(planes), scaling).image
    row = FieldRow(
        id=name,
        source="hpa",
        labels=labels,
        antibody=parts.antibody,
        plate=parts.plate,
        well=parts.well,
        field=parts.field,
        original_px=height,
        original_width_px=width,
    )
    return [(row, packed)]


class HpaFiles(Mapping[str, dict[str, str]]):
    """The files of each field in a folder and its subfolders, by color, ordered by id.

    Args:
        folder: The folder.

    Attributes:
        unmatched: The number of other image files.

    Raises:
        ImageError: If the folder does not exist, or a channel of a field has two files.
    """

    def __init__(self, folder: Path) -> None:
        self.unmatched = 0
        found: dict[str, Places] = {}
        # Fields of one folder share the locations of their files, to save memory.
        shared: dict[Places, Places] = {}
        for path in walk_files(folder, suffixes=(".jpg", ".jpeg"), passing_over=holds_dataset):
            inside, _, file = path.rpartition("/")
            stem, _, suffix = file.rpartition(".")
            name, _, color = stem.rpartition("_")
            lacking = not _is_whole(name) and _is_whole(f"{inside.rpartition('/')[2]}_{name}")
            whole = f"{inside.rpartition('/')[2]}_{name}" if lacking else name
            if color not in COLORS or parse_hpa_id(whole) is None:
                self.unmatched += 1
                continue
            number = COLORS.index(color)
            before = found.get(whole, (None,) * len(COLORS))
            now = (*before[:number], (inside, lacking, suffix), *before[number + 1 :])
            if before[number] is not None:
                one, other = sorted((_files(whole, before)[color], path))
                raise ImageError(f"{folder} contains both {one} and {other}.", hint="Remove one of them.")
            found[whole] = shared.setdefault(now, now)
        self._places = {name: found[name] for name in sorted(found)}

    def __getitem__(self, name: str) -> dict[str, str]:
        return _files(name, self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _files(name: str, places: Places) -> dict[str, str]:
    """Return the path of the file of each color of a field, below the source's folder."""
    files = {}
    for color, place in zip(COLORS, places, strict=True):
        if place is not None:
            inside, lacking, suffix = place
            stem = name.partition("_")[2] if lacking else name
            files[color] = f"{inside}/{stem}_{color}.{suffix}" if inside else f"{stem}_{color}.{suffix}"
    return files


def find_hpa_fields(folder: Path) -> HpaFiles:
    """Find the fields in a folder and its subfolders.

    Args:
        folder: The folder.

    Returns:
        The files of each field, by color.

    Raises:
        ImageError: If the folder does not exist, contains no fields, or has two files for a channel.
    """
    found = HpaFiles(folder)
    if not found:
        raise ImageError(
            f"{folder} contains no fields.",
            hint="Name files {antibody}_{plate}_{well}_{field}_red.jpg, …_green.jpg, …_blue.jpg and …_yellow.jpg.",
        )
    return found


def _is_whole(name: str) -> bool:
    """Return whether a name is the id of a field, including the antibody."""
    found = parse_hpa_id(name)
    return found is not None and found.antibody is not None
