"""Datasets from arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc._typing import BoolArray
from cytoloc.channels import channel_order, check_channels
from cytoloc.choices import check_type
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.quarantine import refuse_unprintable
from cytoloc.dataset.sources.channels import NAMES
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import Field, write_dataset
from cytoloc.errors import ImageError, SettingsError, TableError
from cytoloc.images.decoding import located
from cytoloc.images.depth import DepthRule, all_to_8_bit, native_pixels
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.labels.label_set import LabelSet, as_label_set

LocationLists = Sequence[Sequence[str | int] | None] | BoolArray
"""Locations of each field, by name, key or index (None for unlabeled fields); or bool of shape ``(n, locations)``."""


def dataset_from_arrays(
    images: NDArray[Any],
    *,
    out: str | Path,
    channels: Sequence[str],
    ids: Sequence[str] | None = None,
    labels: LocationLists | None = None,
    label_set: LabelSet | str | None = None,
    metadata: Mapping[str, Sequence[str | None]] | None = None,
) -> Dataset:
    """Write images in memory to a new dataset.

    Args:
        images: The images, of shape ``(n, channels, size, size)`` and integer or float type; a NumPy array, or a
            torch tensor on the CPU. uint16 and float images are converted to 8 bits by the percentile rule of the Human
            Protein Atlas.
        out: The new dataset.
        channels: The names of the channels, in the order of the array. One must be ``"protein"``.
        ids: The ids of the fields. Default: ``"0"``, ``"1"`` and so on.
        labels: The locations of each field, by name, key or index (None for unlabeled fields); or a bool matrix of
            shape ``(n, locations)``. Default: all fields are unlabeled.
        label_set: The label set of the labels. Default: the names in ``labels``, in alphabetical order.
        metadata: Values of each field for any of ``antibody``, ``plate``, ``well``, ``field``, ``gene`` and
            ``cell_line``.

    Returns:
        The dataset. Its channels are stored in a fixed order: microtubules, protein, nucleus, er, then others.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        ImageError: If the images have another shape or pixel type.
        TableError: If ids repeat, lengths differ, or a label is not in the label set.
        SettingsError: If labels are a matrix or indices and no label set is given, or ``metadata`` has an unknown key.
        OutputExistsError: If ``out`` exists.

    Examples:
        >>> labels = [["Cytosol"], ["Nucleoli", "Cytosol"]]
        >>> dataset_from_arrays(images, out="a.dataset", channels=["protein", "er"], labels=labels)  # doctest: +SKIP
        Dataset('a.dataset', 2 fields of 64 px, protein, er; 2 labeled by labels)
    """
    check_type(out, (str, Path), argument="out")
    check_type(channels, (list, tuple), argument="channels")
    check_type(label_set, (LabelSet, str, type(None)), argument="label_set")
    array = native_pixels(np.asarray(images))
    names = check_channels(channels)
    if array.ndim != 4 or array.shape[1] != len(names) or array.shape[2] != array.shape[3] or not len(array):
        raise ImageError(
            f"`images` must have the shape (n, {len(names)}, size, size), not {array.shape}.",
            hint=f"Stack the channels in the order {', '.join(names)}, and crop or pad images to squares.",
        )
    if array.dtype.kind not in "iuf":
        raise ImageError(f"`images` has {array.dtype} pixels.", hint="Give integers or floats.")
    keys = [str(number) for number in range(len(array))] if ids is None else [str(name) for name in ids]
    if unknown := set(metadata or {}) - set(NAMES):
        raise SettingsError(
            f"`metadata` has the unknown key {min(unknown)!r}.", hint=f"Use {', '.join(sorted(NAMES))}."
        )
    for what, values in (("ids", keys), ("labels", labels), *(metadata or {}).items()):
        if values is not None and len(values) != len(array):
            raise TableError(
                f"`{what}` has {len(values)} values for {len(array)} fields.", hint="Give one value per field."
            )
    for value in (value for values in (metadata or {}).values() for value in values):
        check_type(value, (str, type(None)), argument="metadata")
    locations, indices = location_indices(labels, label_set)
    stored, size = channel_order(names), array.shape[2]

    def rows() -> Iterator[Field]:
        for number, name in enumerate(keys):
            refuse_unprintable(name)
            with located(f"field {name}"):
                planes = [array[number][names.index(channel)] for channel in stored]
                eight = all_to_8_bit(planes, DepthRule(), called=stored)
                pixels = scale_field(eight.image, Scaling(size=size)).image
            described: dict[str, Any] = {key: values[number] for key, values in (metadata or {}).items()}
            row = FieldRow(
                id=name,
                source="array",
                labels=None if indices is None else indices[number],
                original_px=size,
                original_width_px=size,
                black=eight.black,
                white=eight.white,
                flags=eight.flags(stored),
                **described,
            )
            yield row, pixels

    made_by = {"command": "dataset_from_arrays"}
    return write_dataset(out, rows(), size=size, channels=stored, label_set=locations, made_by=made_by)


def location_indices(
    labels: LocationLists | None, given: LabelSet | str | None
) -> tuple[LabelSet, list[tuple[int, ...] | None] | None]:
    """Return the label set of labels, and the indices of the locations of each field.

    Args:
        labels: The labels; see :func:`dataset_from_arrays`.
        given: The label set, if it is known.

    Returns:
        The label set, and one tuple of indices per field; None instead of indices if there are no labels.

    Raises:
        ArgumentTypeError: If the locations of a field are a string.
        SettingsError: If ``labels`` needs a label set and none is given.
        TableError: If a label is not in the label set.
    """
    label_set = None if given is None else as_label_set(given)
    if labels is None:
        return label_set or LabelSet.hpa28(), None
    if not isinstance(labels, list | tuple):
        matrix = np.asarray(labels)
        if label_set is None:
            raise SettingsError(
                "`labels` is a matrix, and `label_set` is missing.", hint="Give `label_set` to name the columns."
            )
        if matrix.ndim != 2 or matrix.shape[1] != len(label_set) or matrix.dtype != bool:
            raise TableError(
                f"`labels` must be a bool matrix with {len(label_set)} columns, not {matrix.dtype} of shape"
                f" {matrix.shape}."
            )
        return label_set, [tuple(int(i) for i in np.flatnonzero(row)) for row in matrix]
    for number, each in enumerate(labels):
        check_type(each, (list, tuple, set, frozenset, type(None)), argument=f"labels[{number}]")
        for word in each or ():
            check_type(word, (str, int, np.integer), argument=f"labels[{number}]")
    if label_set is None:
        words = {word for each in labels for word in each or ()}
        if not words or not all(isinstance(word, str) for word in words):
            raise SettingsError(
                "`labels` contains no names, and `label_set` is missing.", hint="Give `label_set` to name the indices."
            )
        label_set = LabelSet.from_names(sorted(map(str, words), key=str.casefold), name="labels")
    found: list[tuple[int, ...] | None] = []
    for number, each in enumerate(labels):
        if each is None:
            found.append(None)
            continue
        places = {label_set.index(word) if isinstance(word, str) else int(word) for word in each}
        if places and not 0 <= min(places) <= max(places) < len(label_set):
            raise TableError(f"`labels` of field {number} contains an index that is out of range for {label_set}.")
        found.append(tuple(sorted(places)))
    return label_set, found
