"""Import of plates into a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cytoloc.choices import refuse_unknown
from cytoloc.dataset.arguments import (
    check_arguments,
    check_pixel_sizes,
    check_planes,
    choose_label_set,
    parse_channels_argument,
)
from cytoloc.dataset.from_files import Preview, dataset_of, preview_import, run_import
from cytoloc.dataset.importing import ImportOptions
from cytoloc.dataset.plates.fields import describe_plates, list_fields
from cytoloc.dataset.plates.finding import LAYOUTS, Layout, find_plates
from cytoloc.dataset.plates.plate import FoundPlates
from cytoloc.dataset.sources.field_files import FieldReader
from cytoloc.dataset.sources.folder import FolderSource
from cytoloc.dataset.sources.planes import PlaneChoice
from cytoloc.dataset.store import Dataset
from cytoloc.images.depth import DepthRule
from cytoloc.labels.label_set import LabelSet


@dataclass(frozen=True, kw_only=True)
class PlateOptions(ImportOptions):
    """Settings for importing plates, in addition to :class:`ImportOptions`.

    Attributes:
        layout: The layout of the files: ``"auto"``, ``"imagexpress"``, ``"operetta"`` or ``"harmony"`` (the same),
            ``"cellvoyager"``, ``"incell"``, ``"scanr"`` or ``"ome-zarr"``.
        metadata: CSV file with a column ``id`` and any of ``antibody``, ``plate``, ``well``, ``field``, ``gene``,
            ``cell_line``.
        z: The number of a z plane, as the instrument numbers them; ``"max"`` for a maximum projection.
        time: The number of a time point, as the instrument numbers them. Default: all, each as a field of its own.
        pages: The axis along the pages of a TIFF file that does not state its axes: ``"channel"`` or ``"z"``.
        pixel_um: Pixel size in micrometers. Default: the pixel size in the index, or the one that each file states.
        target_um: Pixel size in micrometers to scale images to. Default: images are scaled to the image size only.

    Raises:
        SettingsError: If a value is invalid.
    """

    layout: Layout = "auto"
    metadata: str | Path | None = None
    z: int | Literal["max"] = "max"
    time: int | None = None
    pages: Literal["channel", "z"] | None = None
    pixel_um: float | None = None
    target_um: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown(self.layout, LAYOUTS, argument="layout")
        check_planes(self.z, self.time, self.pages)
        check_pixel_sizes(pixel_um=self.pixel_um, target_um=self.target_um)


@dataclass(frozen=True)
class PlatePreview:
    """The result of previewing an import of plates.

    Attributes:
        plates: The plates that were found.
        fields: The channel assignments, and the fields that cannot be imported.
    """

    plates: FoundPlates
    fields: Preview

    def lines(self) -> Iterator[str]:
        """Yield lines about each plate: index, wells, fields, channels, z planes and time points."""
        return describe_plates(self.plates)


def import_plate(
    folder: str | Path,
    *,
    out: str | Path,
    channels: Mapping[str, str | int] | Sequence[str],
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: PlateOptions = PlateOptions(),
) -> Dataset:
    """Import the plates of a high-content microscope: each field of view and time point becomes a field.

    Wells, fields, channels, z planes and time points come from the instrument's index if there is one (``.HTD``,
    ``Index.idx.xml``, ``Index.xml``, ``MeasurementData.mlf``, ``.xdce``, ``experiment_descriptor.xml``, the metadata of
    an OME-Zarr), otherwise from file names. Files that the index lists and that do not exist are in the quarantine of
    the dataset. Imports are resumable; see :func:`import_kaggle`.

    Args:
        folder: Folder of one or more plates. Its subfolders are searched too.
        out: The new dataset, or with ``options.append`` the dataset to add to.
        channels: For each channel of the dataset the name, number or wavelength of the channel on the plate, such as
            ``{"nucleus": "DAPI", "protein": 2}``. The protein is required.
        labels: CSV file with columns ``Id,Target``. Fields that are not in it are imported without labels.
        label_set: The label set of the labels: a label set, its name, or a file. Required with ``labels``.
        size: Edge length of the images in the dataset, in pixels.
        options: Settings of the import.

    Returns:
        The dataset. Ids of fields are ``{plate}_{well}_{field}``, followed by ``_t{time}`` if there are several time
        points. Its attribute ``quarantine`` lists fields that could not be read.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        ImageError: If there is no plate, an index is damaged, or no field can be read.
        TableError: If the labels or the metadata are invalid.
        OutputExistsError: If ``out`` exists and is not an unfinished import of the same files.
        SettingsError: If ``channels`` or the layout is ambiguous or unknown, or labels are given without a label set.

    Warns:
        DatasetWarning: If something about the import should be checked.
    """
    _, source = plate_source(
        folder, out=out, channels=channels, labels=labels, label_set=label_set, size=size, options=options
    )
    return dataset_of(run_import(source, out, size=size, options=options))


def preview_plate(
    folder: str | Path,
    *,
    channels: Mapping[str, str | int] | Sequence[str],
    size: int = 512,
    options: PlateOptions = PlateOptions(),
    every: bool = False,
) -> PlatePreview:
    """Preview the import of plates, without writing anything.

    Args:
        folder: Folder of one or more plates.
        channels: The name, number or wavelength of each channel; see :func:`import_plate`.
        size: Edge length of the images in the dataset, in pixels.
        options: Settings of the import.
        every: Check all files, not only the first readable ones.

    Returns:
        The plates, the channel assignments, and the fields that cannot be imported.

    Raises:
        ImageError: If there is no plate, or an index is damaged.
        SettingsError: If ``channels`` or the layout is ambiguous or unknown.
    """
    found, source = plate_source(folder, out=None, channels=channels, size=size, options=options)
    return PlatePreview(found, preview_import(source, every=every, options=options))


def plate_source(
    folder: str | Path,
    *,
    out: str | Path | None,
    channels: Mapping[str, str | int] | Sequence[str],
    labels: str | Path | None = None,
    label_set: LabelSet | str | None = None,
    size: int = 512,
    options: PlateOptions = PlateOptions(),
) -> tuple[FoundPlates, FolderSource]:
    """Return the plates in a folder, and the source of their fields; see :func:`import_plate`."""
    check_arguments(folder, labels, size, options, PlateOptions, label_set=label_set)
    wanted = parse_channels_argument(channels)
    found = find_plates(Path(folder), options.layout)
    listing = list_fields(found, wanted, z=options.z, time=options.time)
    zarr_z = options.z if found.layout == "ome-zarr" and options.z != "max" else None
    reader = FieldReader(
        folder=Path(folder),
        channels=listing.channels,
        scaling=options.scaling(size, target_um=options.target_um),
        planes=PlaneChoice(depth=zarr_z, pages=options.pages),
        depth=DepthRule(floor=options.floor),
        pixel_um=options.pixel_um,
        source=listing.source,
        strict=options.strict,
    )
    source = FolderSource(
        reader,
        label_set=choose_label_set(label_set, out, append=options.append, labels=labels),
        labels=None if labels is None else Path(labels),
        metadata=None if options.metadata is None else Path(options.metadata),
        limit=options.limit,
        listing=listing,
    )
    return found, source
