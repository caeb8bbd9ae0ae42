"""Checks of the arguments that all imports share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cytoloc.choices import check_type, refuse_unknown
from cytoloc.dataset.importing import ImportOptions
from cytoloc.dataset.manifest import read_manifest
from cytoloc.dataset.sources.channels import ChannelMap, parse_channels
from cytoloc.dataset.sources.labeling import label_set_from
from cytoloc.errors import ArgumentTypeError, SettingsError
from cytoloc.labels.label_set import LabelSet, find_label_set

FROM_LABELS: Final = "from-labels"
"""The value of ``label_set`` that makes a label set of the names in the labels file."""


def parse_channels_argument(channels: Mapping[str, str | int] | Sequence[str]) -> ChannelMap:
    """Return the argument ``channels`` of an import, parsed.

    Args:
        channels: A mapping, or a list of ``NAME=WHAT``.

    Returns:
        The channel map.

    Raises:
        ArgumentTypeError: If it is neither a mapping nor a list.
        SettingsError: If it is invalid.
    """
    if isinstance(channels, str) or not isinstance(channels, Mapping | Sequence):
        raise ArgumentTypeError(
            f"`channels` must be a mapping or a list, not {type(channels).__name__}.",
            hint="Give for example {'protein': '*_gfp.tif', 'nucleus': '*_dapi.tif'}.",
        )
    return parse_channels(
        [f"{name}={what}" for name, what in channels.items()] if isinstance(channels, Mapping) else channels
    )


def check_planes(z: object, time: object, pages: object) -> None:
    """Raise unless the planes of an import are valid.

    Args:
        z: The number of a z plane, or ``"max"``.
        time: The number of a time point; None for the default.
        pages: ``"channel"`` or ``"z"``, or None.

    Raises:
        ArgumentTypeError: If ``time`` has the wrong type.
        SettingsError: If ``z`` or ``pages`` is invalid.
    """
    check_type(time, (int, type(None)), argument="time")
    if pages is not None:
        refuse_unknown(pages, ("channel", "z"), argument="pages")
    if z != "max" and not (isinstance(z, int) and z >= 0):
        raise SettingsError(f"`z` is {z!r}, which is not a z plane.", hint="Give max, or the number of a plane.")


def check_pixel_sizes(**sizes_um: float | None) -> None:
    """Raise unless pixel sizes in micrometers are finite numbers above 0, or None.

    Args:
        **sizes_um: The pixel sizes by the name of their argument.

    Raises:
        ArgumentTypeError: If a pixel size has the wrong type.
        SettingsError: If a pixel size is not a finite number above 0.
    """
    for name, size_um in sizes_um.items():
        check_type(size_um, (int, float, type(None)), argument=name)
        if size_um is not None and not (math.isfinite(size_um) and size_um > 0):
            raise SettingsError(f"`{name}` is {size_um}, but must be a finite number above 0.")


def check_arguments(
    folder: object,
    labels: object,
    size: object,
    options: ImportOptions,
    kind: type,
    *,
    label_set: object = FROM_LABELS,
) -> None:
    """Raise unless the arguments of an import have the right types, and the size is valid.

    Args:
        folder: The folder of the files.
        labels: The labels file.
        size: Edge length of the images in the dataset, in pixels.
        options: Settings of the import.
        kind: The type of the settings.
        label_set: The label set, if labels need one.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the size is out of range, or labels are given without a label set.
    """
    check_type(folder, (str, Path), argument="folder")
    check_type(labels, (str, Path, type(None)), argument="labels")
    check_type(size, int, argument="size")
    check_type(options, kind, argument="options")
    if isinstance(size, int) and not 32 <= size <= 8192:
        raise SettingsError(f"`size` is {size}, which is out of range.", hint="Choose from 32 to 8192 px.")
    if label_set is None and labels is not None and not options.append:
        raise SettingsError(
            "`labels` needs `label_set`, which names the locations of the labels.",
            hint=f"Give for example hpa28, or {FROM_LABELS} to make a label set of the names in {labels}.",
        )


def choose_label_set(
    given: LabelSet | str | None, out: str | Path | None, *, append: bool, labels: str | Path | None
) -> LabelSet:
    """Return the label set of an import.

    Args:
        given: The argument of the user.
        out: The dataset, if there is one.
        append: Whether fields are added to an existing dataset, whose label set is the default. Otherwise it is hpa28.
        labels: The labels file, from which ``"from-labels"`` makes a label set.

    Returns:
        The label set.

    Raises:
        LabelSetError: If the label set is unknown.
        SettingsError: If ``"from-labels"`` is given without labels.
    """
    check_type(given, (LabelSet, str, type(None)), argument="label_set")
    if isinstance(given, LabelSet):
        return given
    if given is None and append and out is not None:
        return read_manifest(Path(out)).label_set
    if given != FROM_LABELS:
        return find_label_set(given or "hpa28")
    if labels is None:
        raise SettingsError(f"The label set {FROM_LABELS} needs `labels`.", hint="Give the labels file.")
    return label_set_from(Path(labels))
