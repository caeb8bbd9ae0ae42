"""Imports: image files and labels into a dataset, with one call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from cytoloc.choices import check_type, refuse_unknown
from cytoloc.dataset.importing import Imported, ImportOptions, import_fields
from cytoloc.dataset.manifest import read_manifest
from cytoloc.dataset.quarantine import Rejected, refuse_unprintable, rejected
from cytoloc.dataset.sources.channels import parse_channels
from cytoloc.dataset.sources.field_files import FieldReader
from cytoloc.dataset.sources.folder import FolderSource
from cytoloc.dataset.sources.hpa import HpaSource
from cytoloc.dataset.sources.kaggle import KaggleSource
from cytoloc.dataset.sources.labeling import label_set_from
from cytoloc.dataset.sources.planes import PlaneChoice
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ArgumentTypeError, DatasetWarning, ImageError, SettingsError, WorkerError
from cytoloc.images.depth import FLOOR_16_BIT, DepthRule
from cytoloc.images.scale import HPA_FIELD_UM, far_off
from cytoloc.labels.label_set import LabelSet, find_label_set
from cytoloc.parallel import processes

FROM_LABELS: Final = "from-labels"
"""Given as label set: make one of the names in the labels file."""

FEWEST_FOR_PROCESSES: Final = 200
"""From so many items on a process per core is faster than a thread, although processes take half a second to start."""

FileSource = KaggleSource | HpaSource | FolderSource


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ImportOptions):
    """How any microscope files become a dataset.

    Attributes:
        files: Pattern of files that hold all channels; by default all image files.
        metadata: CSV ``id`` and any of ``antibody``, ``plate``, ``well``, ``field``, ``gene``, ``cell_line``.
        z: The number of a z plane, counted from 0; ``"max"`` takes the maximum over all.
        time: The time point, counted from 0; None if files must have only one.
        pages: The meaning of the pages of a TIFF that does not state it: ``"channel"`` or ``"z"``.
        pixel_um: Edge of a pixel in micrometers, whatever the files say.
        target_um: Edge of a pixel of the dataset in micrometers; None shows whole images.

    Raises:
        SettingsError: If a value is not valid.
    """

    files: str | None = None
    metadata: str | Path | None = None
    z: int | Literal["max"] = "max"
    time: int | None = None
    pages: Literal["channel", "z"] | None = None
    pixel_um: float | None = None
    target_um: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_type(self.time, (int, type(None)), argument="time")
        if self.pages is not None:
            refuse_unknown(self.pages, ("channel", "z"), argument="pages")
        for name in ("pixel_um", "target_um"):
            check_type(getattr(self, name), (int, float, type(None)), argument=name)
        if self.z != "max" and not (isinstance(self.z, int) and self.z >= 0):
            raise SettingsError(f"`z` is {self.z!r}.", hint="Give max, or the number of a plane from 0.")
        for name, edge in (("pixel_um", self.pixel_um), ("target_um", self.target_um)):
            if edge is not None and not (math.isfinite(edge) and edge > 0):
                raise SettingsError(f"`{name}` is {edge}; it must be a number more than 0.")


@dataclass(frozen=True)
class Preview:
    """What an import of a folder would take.

    Attributes:
        items: How many files, or sets of files, there are.
        unmatched: How many other images there are.
        mappings: For each way in which channels are found, in words, the items that have it; the most frequent first.
        unreadable: The items that cannot be taken, with the error.
    """

    items: int
    unmatched: int
    mappings: tuple[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], ...]
    unreadable: tuple[tuple[Rejected, ImageError], ...]


def import_kaggle(
    folder: str | Path,
    *,
    out: str | Path,
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: ImportOptions = ImportOptions(),
) -> Dataset:
    """Import the files of the 2018 competition: four gray PNG or TIFF files a field, 8 or 16 bits.

    Imports are resumable: call again with the same arguments, and the import continues after the last complete segment.

    Args:
        folder: Holds ``{Id}_{red,green,blue,yellow}.png`` or ``.tif``.
        out: The new dataset, or with ``options.append`` the one to add to.
        labels: CSV ``Id,Target``. Without it every field is imported, unlabeled.
        label_set: The label set of the labels: a label set, its name, or a file. By default hpa28, or that of the
            dataset to add to.
        size: Edge of the dataset's images, in pixels.
        options: How the import proceeds.

    Returns:
        The dataset. Fields that cannot be read are in its ``quarantine``.

    Raises:
        ImageError: If there are no fields, or none can be read.
        TableError: If the labels are not valid.
        OutputExistsError: If something else lies at ``out``.

    Warns:
        DatasetWarning: If something about the import should be checked.
    """
    source = kaggle_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    return _dataset_of(run_import(source, out, size=size, options=options))


def import_hpa(
    folder: str | Path,
    *,
    out: str | Path,
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: ImportOptions = ImportOptions(),
) -> Dataset:
    """Import the JPEG files of the Human Protein Atlas: four renderings a field, each stain in its color.

    Args:
        folder: Holds ``{antibody}_{plate}_{well}_{field}_{color}.jpg``.
        out: As for :func:`import_kaggle`, like the result and the errors.
        labels: CSV ``Id,Target``.
        label_set: The label set of the labels.
        size: Edge of the dataset's images, in pixels.
        options: How the import proceeds.

    Raises:
        SettingsError: If ``options`` has ``depth`` or ``floor``, which are for 16-bit files.
    """
    source = hpa_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    return _dataset_of(run_import(source, out, size=size, options=options))


def import_folder(
    folder: str | Path,
    *,
    out: str | Path,
    channels: Mapping[str, str | int] | Sequence[str],
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: FolderOptions = FolderOptions(),
) -> Dataset:
    """Import any microscope files: TIFF, PNG, JPEG; with the extra ``formats`` also CZI, LIF, ND2 and OME-Zarr.

    Args:
        folder: Holds the files, also in folders below it.
        channels: For each channel a pattern of its files, such as ``{"protein": "*_gfp.tif"}``, or its number or name
            in files that hold all channels, such as ``{"protein": "GFP", "nucleus": 0}``. The protein is required.
            ``*`` stands for the field's id; ``{plate}``, ``{well}``, ``{field}`` and others for what they say.
        labels: CSV ``Id,Target``; other fields stay unlabeled.
        label_set: The label set of the labels; ``"from-labels"`` makes one of the names in the labels file.
        out: As for :func:`import_kaggle`, like the result and the other errors.
        size: Edge of the dataset's images, in pixels.
        options: How the import proceeds.

    Raises:
        SettingsError: If ``channels`` is not valid, or labels are given without a label set.
    """
    source = folder_source(
        folder, out=out, channels=channels, labels=labels, label_set=label_set, size=size, options=options
    )
    return _dataset_of(run_import(source, out, size=size, options=options))


def kaggle_source(
    folder: str | Path,
    *,
    out: str | Path,
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: ImportOptions = ImportOptions(),
) -> KaggleSource:
    """Return the fields that :func:`import_kaggle` imports; arguments and errors are its own."""
    _check_arguments(folder, labels, size, options, ImportOptions)
    return KaggleSource(
        Path(folder),
        labels=None if labels is None else Path(labels),
        label_set=choose_label_set(label_set, out, append=options.append, labels=labels),
        scaling=options.scaling(size),
        depth=DepthRule(floor=options.floor),
        limit=options.limit,
    )


def hpa_source(
    folder: str | Path,
    *,
    out: str | Path,
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: ImportOptions = ImportOptions(),
) -> HpaSource:
    """Return the fields that :func:`import_hpa` imports; arguments and errors are its own."""
    _check_arguments(folder, labels, size, options, ImportOptions)
    if options.depth != "field" or options.floor is not None:
        raise SettingsError("`depth` and `floor` are for files of more than 8 bits; JPEG files have 8.")
    return HpaSource(
        Path(folder),
        labels=None if labels is None else Path(labels),
        label_set=choose_label_set(label_set, out, append=options.append, labels=labels),
        scaling=options.scaling(size),
        limit=options.limit,
    )


def folder_source(
    folder: str | Path,
    *,
    out: str | Path | None,
    channels: Mapping[str, str | int] | Sequence[str],
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: FolderOptions = FolderOptions(),
) -> FolderSource:
    """Return the fields that :func:`import_folder` imports; arguments and errors are its own."""
    _check_arguments(folder, labels, size, options, FolderOptions)
    if label_set is None and labels is not None and not options.append:
        raise SettingsError(
            "`labels` needs `label_set`: say which locations the labels name.",
            hint=f"For example hpa28, or {FROM_LABELS} to make a label set of the names in {labels}.",
        )
    if isinstance(channels, str) or not isinstance(channels, Mapping | Sequence):
        raise ArgumentTypeError(
            f"`channels` must be a mapping or a list, not {type(channels).__name__}.",
            hint="For example {'protein': '*_gfp.tif', 'nucleus': '*_dapi.tif'}.",
        )
    pairs = [f"{name}={what}" for name, what in channels.items()] if isinstance(channels, Mapping) else channels
    reader = FieldReader(
        folder=Path(folder),
        channels=parse_channels(pairs),
        scaling=options.scaling(size, target_um=options.target_um),
        planes=PlaneChoice(depth=None if options.z == "max" else options.z, time=options.time, pages=options.pages),
        depth=DepthRule(floor=options.floor),
        pixel_um=options.pixel_um,
    )
    return FolderSource(
        reader,
        label_set=choose_label_set(label_set, out, append=options.append, labels=labels),
        files=options.files,
        labels=None if labels is None else Path(labels),
        metadata=None if options.metadata is None else Path(options.metadata),
        limit=options.limit,
    )


def _check_arguments(folder: object, labels: object, size: object, options: object, kind: type) -> None:
    """Raise unless the arguments of an import have the right types, and the size is possible."""
    check_type(folder, (str, Path), argument="folder")
    check_type(labels, (str, Path, type(None)), argument="labels")
    check_type(size, int, argument="size")
    check_type(options, kind, argument="options")
    if isinstance(size, int) and not 32 <= size <= 8192:
        raise SettingsError(f"`size` is {size}.", hint="Choose from 32 to 8192 px.")


def choose_label_set(
    given: LabelSet | str | None, out: str | Path | None, *, append: bool, labels: str | Path | None
) -> LabelSet:
    """Return the label set of an import: by default that of the dataset to add to, or hpa28.

    Raises:
        LabelSetError: If there is no such label set.
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


def preview_import(source: FolderSource, *, every: bool = False, options: ImportOptions = ImportOptions()) -> Preview:
    """Return which channel becomes what in the first item that can be read, or in all items."""
    bad: list[tuple[Rejected, ImageError]] = []
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for done, item in enumerate(source.items, start=1):
        try:
            refuse_unprintable(item)
            lines = source.describe(item)
            # The file differs from item to item; the channel in it need not.
            seen.setdefault(tuple((role, what.partition(" in ")[0]) for role, what in lines), []).append(item)
            if every:
                source.check(item)
        except ImageError as error:
            bad.append((rejected(item, error), error))
        options.progress(done, len(source.items))
        if not every and (seen or len(bad) == 20):
            break
    groups = sorted(seen.values(), key=len, reverse=True)
    mappings = tuple((tuple(source.describe(items[0])), tuple(items)) for items in groups)
    return Preview(len(source.items), source.unmatched, mappings, tuple(bad))


def preview_folder(
    folder: str | Path,
    *,
    channels: Mapping[str, str | int] | Sequence[str],
    size: int = 512,
    options: FolderOptions = FolderOptions(),
    every: bool = False,
) -> Preview:
    """Return which channel becomes what if a folder is imported; nothing is written.

    Args:
        folder: See :func:`import_folder`, as for the other arguments.
        channels: Where each channel is.
        size: Edge of the dataset's images, in pixels.
        options: How the import would proceed.
        every: Look at all files, not only at the first that can be read.

    Raises:
        ImageError, SettingsError: As :func:`import_folder`.
    """
    source = folder_source(folder, out=None, channels=channels, size=size, options=options)
    return preview_import(source, every=every, options=options)


def run_import(source: FileSource, out: str | Path, *, size: int, options: ImportOptions = ImportOptions()) -> Imported:
    """Import the fields of a source; see :func:`import_kaggle`.

    Returns:
        What came in, and notes for the user.
    """
    notes: list[str] = []
    if options.depth == "import" and not isinstance(source, HpaSource):
        source.measure_jointly(options.progress)
    pool: AbstractContextManager[Executor | None] = nullcontext()
    if options.processes and len(source.items) >= FEWEST_FOR_PROCESSES:
        try:
            pool = processes()
        except WorkerError as error:
            notes.append(f"{error.message} The import used threads, with the same result.")
    imported = None
    try:
        with pool as executor:
            imported = import_fields(source, Path(out), size=size, options=options, pool=executor)
    except KeyboardInterrupt:
        # An interruption while the workers end comes too late to stop anything.
        if imported is None:
            raise
    if isinstance(source, FolderSource):
        notes += _scale_notes(imported, size)
        ids = imported.column("id")
        for what, names, known in (
            ("`labels`", source.labels.ids, set(ids)),
            ("`metadata`", source.metadata.ids, {*ids, *source.items}),
        ):
            lacking = sorted(set(names) - known)
            if lacking:
                notes.append(
                    f"{len(lacking)} id{'s' * (len(lacking) > 1)} in {what} of no field imported:"
                    f" {', '.join(lacking[:3])}. Ids there are such as {', '.join(ids[:2])}."
                )
        return replace(imported, notes=tuple(notes))
    without = sum(name not in source.found for name in source.items)
    if without:
        notes.append(f"{without} of {len(source.items)} listed fields have no file in {source.folder}.")
    left_out = len(source.found) - (len(source.items) - without)
    if left_out > 0:
        notes.append(f"{left_out} more field{'s' * (left_out > 1)} in {source.folder} not asked for.")
    if source.found.unmatched:
        other = source.found.unmatched
        notes.append(f"{other} other image{'s' * (other > 1)} in {source.folder} not named like a channel.")
    return replace(imported, notes=tuple(notes))


def _dataset_of(imported: Imported) -> Dataset:
    """Return the dataset; notes become warnings."""
    for note in imported.notes:
        warnings.warn(note, DatasetWarning, stacklevel=3)
    return imported.dataset


def _scale_notes(imported: Imported, size: int) -> list[str]:
    """Return what is unusual about the pixel size and the brightness of the added fields."""
    notes, hpa = [], HPA_FIELD_UM / size
    edges = imported.column("packed_um").tail(imported.added)
    unknown = edges.null_count()
    if unknown:
        notes.append(
            f"The pixel size of {unknown} field{'s' * (unknown > 1)} is not known; the Human Protein Atlas has"
            f" {hpa:.3f} µm at {size} px. Cells at another scale are misjudged: give `pixel_um`."
        )
    off = [edge for edge in edges.drop_nulls() if far_off(edge, size)]
    if off:
        span = " to ".join(dict.fromkeys(f"{edge:.3f}" for edge in (min(off), max(off))))
        notes.append(
            f"Pixels of {len(off)} field{'s' * (len(off) > 1)} are {span} µm as packed; the Human Protein Atlas has"
            f" {hpa:.3f} µm at {size} px. `target_um={hpa:.3g}` scales them alike."
        )
    whites = imported.column("white").tail(imported.added)
    floored = int(whites.list.contains(FLOOR_16_BIT).sum())
    if floored * 2 > len(whites):
        notes.append(
            f"A channel of {floored} of {len(whites)} fields stays below the white of 16 bits, {FLOOR_16_BIT:.0f}, and"
            " is dark. If the camera has 12 bits, give `floor=0`, or the value that counts as bright there."
        )
    return notes
