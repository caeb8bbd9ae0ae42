"""Imports of image files and labels into a dataset, each with one function."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from cytoloc.choices import check_type
from cytoloc.dataset.arguments import (
    check_arguments,
    check_pixel_sizes,
    check_planes,
    choose_label_set,
    parse_channels_argument,
)
from cytoloc.dataset.importing import Imported, ImportOptions, import_fields
from cytoloc.dataset.notes import chunk_notes, flag_notes, scale_notes
from cytoloc.dataset.quarantine import Rejected, refuse_unprintable, rejected
from cytoloc.dataset.sources.field_files import FieldReader
from cytoloc.dataset.sources.folder import FolderSource
from cytoloc.dataset.sources.hpa import HpaSource
from cytoloc.dataset.sources.kaggle import KaggleSource
from cytoloc.dataset.sources.listing import zarr_itself
from cytoloc.dataset.sources.planes import PlaneChoice
from cytoloc.dataset.sources.table_files import read_table_files
from cytoloc.dataset.store import Dataset
from cytoloc.errors import DatasetWarning, ImageError, SettingsError, WorkerError
from cytoloc.files import existing
from cytoloc.images.depth import DepthRule
from cytoloc.images.formats.zarr.store import is_zarr
from cytoloc.labels.label_set import LabelSet
from cytoloc.parallel import processes

FEWEST_FOR_PROCESSES: Final = 200
"""Number of items from which processes are faster than threads; processes take half a second to start."""

FileSource = KaggleSource | HpaSource | FolderSource


@dataclass(frozen=True, kw_only=True)
class FolderOptions(ImportOptions):
    """Settings for importing a folder of any microscope files, in addition to :class:`ImportOptions`.

    Attributes:
        files: Pattern of the files, if each file contains all channels. Default: all image files. With ``*`` in the
            pattern, ids are the same as without a pattern.
        metadata: CSV file with a column ``id`` and any of ``antibody``, ``plate``, ``well``, ``field``, ``gene``,
            ``cell_line``.
        z: The number of a z plane, from 0; ``"max"`` for a maximum projection.
        time: The time point, from 0. None if files have only one.
        pages: The axis along the pages of a TIFF file that does not state its axes: ``"channel"`` or ``"z"``.
        axes: What the axes of all files are, instead of what the files say: a letter of T, Z, C, Y and X for each axis
            that is longer than 1, in the order of the file. ``"CYX"`` reads channels that were saved as time points.
        table: CSV file of the files of each field: a row per field with the columns ``FileName_CHANNEL`` and
            ``PathName_CHANNEL``, ``URL_CHANNEL`` or ``CHANNEL``, or a row per channel with the columns ``channel``,
            ``path`` and, for z planes, ``z``. Columns of metadata are ``id``, ``plate``, ``well`` and others, which can
            begin with ``Metadata_``.
        pixel_um: Pixel size in micrometers. Default: the pixel size that each file states.
        target_um: Pixel size in micrometers to scale images to. Default: images are scaled to the image size only.

    Raises:
        SettingsError: If a value is invalid.
    """

    files: str | None = None
    table: str | Path | None = None
    metadata: str | Path | None = None
    z: int | Literal["max"] = "max"
    time: int | None = None
    pages: Literal["channel", "z"] | None = None
    axes: str | None = None
    pixel_um: float | None = None
    target_um: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_planes(self.z, self.time, self.pages)
        check_pixel_sizes(pixel_um=self.pixel_um, target_um=self.target_um)
        check_type(self.axes, (str, type(None)), argument="axes")
        if self.axes is not None:
            object.__setattr__(self, "axes", self.axes.upper())
            letters = {*self.axes}
            if not {"Y", "X"} <= letters <= {*"TZCYX"} or len(letters) < len(self.axes):
                raise SettingsError(
                    f"`axes` is {self.axes!r}, which does not name the axes of images.",
                    hint="Give Y and X, and any of T, Z and C, each once, for example CYX.",
                )
            if self.pages is not None:
                raise SettingsError("`axes` says what pages are, so `pages` has no meaning.", hint="Remove `pages`.")


@dataclass(frozen=True)
class Preview:
    """The result of previewing an import.

    Attributes:
        items: The number of items: files, or sets of files.
        unmatched: The number of other image files.
        mappings: Each channel assignment that occurs, with its items; the most frequent first. A channel assignment
            is a tuple of pairs of a channel and its origin in words.
        unreadable: The items, or scenes of items, that cannot be imported, with their errors.
        refused: The number of items of which no scene can be imported.
    """

    items: int
    unmatched: int
    mappings: tuple[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], ...]
    unreadable: tuple[tuple[Rejected, ImageError], ...]
    refused: int


def import_kaggle(
    folder: str | Path,
    *,
    out: str | Path,
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: ImportOptions = ImportOptions(),
) -> Dataset:
    """Import files of the 2018 Kaggle competition: four gray PNG or TIFF files per field, with 8 or 16 bits.

    Imports are resumable: call the function again with the same arguments, and the import continues after the last
    complete segment.

    Args:
        folder: Folder of files ``{Id}_{red,green,blue,yellow}.png`` or ``.tif``.
        out: The new dataset, or with ``options.append`` the dataset to add to.
        labels: CSV file with columns ``Id,Target``; only its fields are imported. Default: all fields, unlabeled.
        label_set: The label set of the labels: a label set, its name, or a file. Default: hpa28, or the label set of
            the dataset to add to.
        size: Edge length of the images in the dataset, in pixels.
        options: Settings of the import.

    Returns:
        The dataset. Its attribute ``quarantine`` lists fields that could not be read.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        ImageError: If there are no fields, or none can be read.
        TableError: If the labels are invalid.
        OutputExistsError: If ``out`` exists and is not an unfinished import of the same files.

    Warns:
        DatasetWarning: If something about the import should be checked.
    """
    source = kaggle_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    return dataset_of(run_import(source, out, size=size, options=options))


def import_hpa(
    folder: str | Path,
    *,
    out: str | Path,
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: ImportOptions = ImportOptions(),
) -> Dataset:
    """Import JPEG files of the Human Protein Atlas: four files per field, each showing one channel in its color.

    Imports are resumable; see :func:`import_kaggle`.

    Args:
        folder: Folder of files ``{antibody}_{plate}_{well}_{field}_{color}.jpg``.
        out: The new dataset, or with ``options.append`` the dataset to add to.
        labels: CSV file with columns ``Id,Target``; only its fields are imported. Default: all fields, unlabeled.
        label_set: The label set of the labels: a label set, its name, or a file. Default: hpa28, or the label set of
            the dataset to add to.
        size: Edge length of the images in the dataset, in pixels.
        options: Settings of the import. ``depth`` and ``floor`` must have their defaults.

    Returns:
        The dataset. Its attribute ``quarantine`` lists fields that could not be read.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        ImageError: If there are no fields, or none can be read.
        TableError: If the labels are invalid.
        OutputExistsError: If ``out`` exists and is not an unfinished import of the same files.
        SettingsError: If ``options`` has ``depth`` or ``floor``, which are for 16-bit files.

    Warns:
        DatasetWarning: If something about the import should be checked.
    """
    source = hpa_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    return dataset_of(run_import(source, out, size=size, options=options))


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
    """Import any microscope files: TIFF, OME-Zarr, PNG, JPEG; with the extra ``formats`` also CZI, LIF, ND2, OIB, OIF.

    Imports are resumable; see :func:`import_kaggle`.

    Args:
        folder: Folder of image files. Its subfolders are searched too.
        out: The new dataset, or with ``options.append`` the dataset to add to.
        channels: For each channel, a pattern of its files, such as ``{"protein": "*_gfp.tif"}``. If each file contains
            all channels, the number or name of the channel, such as ``{"protein": "GFP", "nucleus": 0}``. With
            ``options.table``, the name of the channel in the table. The protein is required. ``name:488`` is
            always a name. In a pattern, ``*`` stands for the id of the field, ``{plate}``, ``{well}``, ``{field}``,
            ``{antibody}``, ``{gene}`` and ``{cell_line}`` for these values, and ``{_}`` for anything else.
        labels: CSV file with columns ``Id,Target``. Fields that are not in it are imported without labels.
        label_set: The label set of the labels: a label set, its name, or a file. ``"from-labels"`` makes a label set
            of the names in the labels file. Required with ``labels``, unless fields are appended.
        size: Edge length of the images in the dataset, in pixels.
        options: Settings of the import.

    Returns:
        The dataset. Its attribute ``quarantine`` lists fields that could not be read.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        ImageError: If there are no fields, or none can be read.
        TableError: If the labels or the metadata are invalid.
        OutputExistsError: If ``out`` exists and is not an unfinished import of the same files.
        SettingsError: If ``channels`` is invalid, or labels are given without a label set.

    Warns:
        DatasetWarning: If something about the import should be checked.
    """
    source = folder_source(
        folder, out=out, channels=channels, labels=labels, label_set=label_set, size=size, options=options
    )
    return dataset_of(run_import(source, out, size=size, options=options))


def kaggle_source(
    folder: str | Path,
    *,
    out: str | Path,
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: ImportOptions = ImportOptions(),
) -> KaggleSource:
    """Return the source of the fields that :func:`import_kaggle` imports; see there for arguments and errors."""
    check_arguments(folder, labels, size, options, ImportOptions)
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
    """Return the source of the fields that :func:`import_hpa` imports; see there for arguments and errors."""
    check_arguments(folder, labels, size, options, ImportOptions)
    if options.depth != "field" or options.floor is not None:
        raise SettingsError(
            "`depth` and `floor` are for images with more than 8 bits, but JPEG files have 8 bits.",
            hint="Remove `depth` and `floor`.",
        )
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
    """Return the source of the fields that :func:`import_folder` imports; see there for arguments and errors."""
    check_arguments(folder, labels, size, options, FolderOptions, label_set=label_set)
    wanted = parse_channels_argument(channels)
    listing = None
    if options.table is not None:
        if options.files is not None:
            raise SettingsError("`files` and `table` both say which files to import.", hint="Give one of them.")
        listing = read_table_files(existing(Path(options.table), what="table"), Path(folder), wanted)
    elif is_zarr(Path(folder)):
        listing = zarr_itself(Path(folder), wanted)
    reader = FieldReader(
        folder=Path(folder),
        channels=listing.channels if listing else wanted,
        scaling=options.scaling(size, target_um=options.target_um),
        planes=PlaneChoice(
            depth=None if options.z == "max" else options.z,
            time=options.time,
            pages=options.pages,
            axes=options.axes,
        ),
        depth=DepthRule(floor=options.floor),
        pixel_um=options.pixel_um,
        strict=options.strict,
    )
    return FolderSource(
        reader,
        label_set=choose_label_set(label_set, out, append=options.append, labels=labels),
        files=options.files,
        labels=None if labels is None else Path(labels),
        metadata=None if options.metadata is None else Path(options.metadata),
        limit=options.limit,
        listing=listing,
    )


def preview_import(source: FolderSource, *, every: bool = False, options: ImportOptions = ImportOptions()) -> Preview:
    """Preview an import.

    Args:
        source: The source of the fields.
        every: Check all items, not only the first readable one.
        options: Settings of the import; only ``progress`` is used.

    Returns:
        The preview.
    """
    refused, bad = 0, list[tuple[Rejected, ImageError]]()
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for done, item in enumerate(source.items, start=1):
        try:
            refuse_unprintable(item)
            lines = source.describe(item)
            if not lines:
                continue  # images that begin in another file of an OME-TIFF set
            # Items have different files, but usually the same channels in them.
            seen.setdefault(tuple((role, what.partition(" in ")[0]) for role, what in lines), []).append(item)
            if every:
                bad += [(rejected(name, error), error) for name, error in source.check(item)]
        except ImageError as error:
            refused += 1
            bad.append((rejected(item, error), error))
        options.progress(done, len(source.items))
        if not every and (seen or len(bad) == 20):
            break
    groups = sorted(seen.values(), key=len, reverse=True)
    mappings = tuple((tuple(source.describe(items[0])), tuple(items)) for items in groups)
    return Preview(len(source.items), source.unmatched, mappings, tuple(bad), refused)


def preview_folder(
    folder: str | Path,
    *,
    channels: Mapping[str, str | int] | Sequence[str],
    size: int = 512,
    options: FolderOptions = FolderOptions(),
    every: bool = False,
) -> Preview:
    """Preview the import of a folder, without writing anything.

    Args:
        folder: Folder of image files.
        channels: The pattern, number or name of each channel; see :func:`import_folder`.
        size: Edge length of the images in the dataset, in pixels.
        options: Settings of the import.
        every: Check all files, not only the first readable one.

    Returns:
        The channel assignments, and the items that cannot be imported.

    Raises:
        ImageError: If there are no files.
        SettingsError: If ``channels`` is invalid.
    """
    source = folder_source(folder, out=None, channels=channels, size=size, options=options)
    return preview_import(source, every=every, options=options)


def run_import(source: FileSource, out: str | Path, *, size: int, options: ImportOptions = ImportOptions()) -> Imported:
    """Import the fields of a source.

    Args:
        source: The source of the fields.
        out: The dataset.
        size: Edge length of the images, in pixels.
        options: Settings of the import.

    Returns:
        The result of the import, with notes for the user.
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
        # If the interruption comes after the import is done, there is nothing to stop.
        if imported is None:
            raise
    notes += flag_notes(imported)
    if isinstance(source, FolderSource):
        notes += scale_notes(imported, size) + chunk_notes(imported)
        ids = imported.column("id")
        for what, names, known in (
            ("`labels`", source.labels.ids, set(ids)),
            ("`metadata`", source.metadata.ids, {*ids, *source.items}),
        ):
            lacking = sorted(set(names) - known)
            if lacking:
                notes.append(
                    f"{len(lacking)} id{'s' * (len(lacking) > 1)} in {what} match no imported field:"
                    f" {', '.join(lacking[:3])}. Ids of imported fields look like {', '.join(ids[:2])}."
                )
        return replace(imported, notes=tuple(notes))
    without = sum(name not in source.found for name in source.items)
    if without:
        notes.append(f"{without} of {len(source.items)} listed fields have no file in {source.folder}.")
    left_out = len(source.found) - (len(source.items) - without)
    if left_out > 0:
        notes.append(f"{left_out} more field{'s' * (left_out > 1)} in {source.folder} not in the labels or the limit.")
    if source.found.unmatched:
        other = source.found.unmatched
        notes.append(f"{other} other image{'s' * (other > 1)} in {source.folder} without a channel in the name.")
    return replace(imported, notes=tuple(notes))


def dataset_of(imported: Imported) -> Dataset:
    """Return the imported dataset, and emit its notes as warnings."""
    for note in imported.notes:
        warnings.warn(note, DatasetWarning, stacklevel=3)
    return imported.dataset
