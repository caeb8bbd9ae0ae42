"""Segmentation of fields into a dataset of cells."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cytoloc.cells.crops import CropOptions
from cytoloc.cells.hpa_segmentation import HpaSegmentation
from cytoloc.cells.methods import Classical, InstanSeg, LabelFiles, Method
from cytoloc.cells.sources import CellSource, fields_at_full_resolution
from cytoloc.choices import check_type
from cytoloc.dataset.importing import Imported, ImportOptions, import_fields
from cytoloc.dataset.manifest import CELL_LABELS, MANIFEST
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ArgumentTypeError, DatasetWarning, SettingsError
from cytoloc.files import replace_file
from cytoloc.images.formats.scene import plausible_um

CELL_TABLE: Final = "fields.parquet"
"""The table of all cells in the folder of the dataset, for other programs: a row per cell."""


def segment_cells(
    inputs: Dataset | str | Path,
    out: str | Path,
    *,
    method: Method | None = None,
    crops: CropOptions = CropOptions(),
    pixel_um: float | None = None,
    channels: Mapping[str, str | int] | Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Dataset:
    """Segment the cells of fields, and write them to a dataset with one row and one image per cell.

    The dataset is like any other: train, predict, decide, evaluate and embed take it. Its column ``field`` is the id of
    the field, and folds keep the cells of a field together. Labels of a field are given to all its cells. The folder
    has ``labels/`` with the label images of the fields, and ``fields.parquet`` with the table of all cells.
    Segmentation is resumable: call the function again with the same arguments.

    Args:
        inputs: A dataset of fields, a folder of image files, or an image file.
        out: The new dataset of cells.
        method: The method: :class:`InstanSeg` (the default), :class:`LabelFiles`, :class:`Classical` or
            :class:`HpaSegmentation`.
        crops: How cells are cut from the fields.
        pixel_um: Pixel size of the fields, in micrometers. Default: as the dataset or the files state it.
        channels: Where each channel is, as for :func:`cytoloc.import_folder`. Not needed for datasets, and for files
            named as in the 2018 Kaggle competition or by the Human Protein Atlas.
        progress: A function that is called with the number of finished fields and of all fields.

    Returns:
        The dataset of cells. Its attribute ``quarantine`` lists fields that could not be segmented.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If ``pixel_um`` is not plausible, or ``channels`` is missing.
        ImageError: If there are no fields, no field can be segmented, or no field has a cell.
        OutputExistsError: If ``out`` exists and is not an unfinished segmentation of the same fields.
        WeightsError: If the weights of InstanSeg are missing or are another file.
        MissingExtraError: If a library is not installed.

    Warns:
        DatasetWarning: If fields have no cells, or many cells are larger than the window.

    Examples:
        >>> segment_cells("plate7", "plate7-cells", pixel_um=0.08)  # doctest: +SKIP
        Dataset('plate7-cells', 1210 cells of 256 px, microtubules, protein, nucleus, er; 0 labeled by hpa28)
    """
    imported = run_segmentation(
        inputs, out, method=method, crops=crops, pixel_um=pixel_um, channels=channels, progress=progress
    )
    for note in imported.notes:
        warnings.warn(note, DatasetWarning, stacklevel=2)
    return imported.dataset


def run_segmentation(
    inputs: Dataset | str | Path,
    out: str | Path,
    *,
    method: Method | None = None,
    crops: CropOptions = CropOptions(),
    pixel_um: float | None = None,
    channels: Mapping[str, str | int] | Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Imported:
    """Segment fields, and return the result with notes; see :func:`segment_cells` for arguments and errors."""
    check_type(inputs, (Dataset, str, Path), argument="inputs")
    check_type(out, (str, Path), argument="out")
    check_type(crops, CropOptions, argument="crops")
    check_type(pixel_um, (int, float, type(None)), argument="pixel_um")
    check_type(channels, (Mapping, list, tuple, type(None)), argument="channels")
    if method is not None and not isinstance(method, InstanSeg | Classical | LabelFiles | HpaSegmentation):
        raise ArgumentTypeError(
            f"`method` must be InstanSeg, Classical, LabelFiles or HpaSegmentation, not {type(method).__name__}.",
            hint="Give for example cytoloc.Classical().",
        )
    if pixel_um is not None and plausible_um(pixel_um) is None:
        raise SettingsError(
            f"`pixel_um` is {pixel_um:g} µm, which is not a pixel size of a light microscope.",
            hint="Give micrometers per pixel, such as 0.08.",
        )
    chosen = method if method is not None else InstanSeg()
    if crops.kept is None:
        crops = replace(crops, kept="all" if isinstance(chosen, LabelFiles) else "nucleated")
    if crops.kept in ("nucleated", "single") and isinstance(chosen, LabelFiles) and chosen.nuclei is None:
        raise SettingsError(
            f"`kept` is {crops.kept}, but the nuclei are unknown.", hint="Give the label images of the nuclei too."
        )
    out = Path(out)
    fields = fields_at_full_resolution(inputs, channels=channels)
    labels = out / CELL_LABELS
    source = CellSource(fields, method=chosen, crops=crops, pixel_um=pixel_um, labels=labels)
    try:
        with chosen.running():
            options = ImportOptions(progress=progress)
            imported = import_fields(source, out, size=crops.size, options=options, of_cells=True)
    finally:
        # A segmentation that failed as a whole leaves nothing.
        if labels.is_dir() and not (out / MANIFEST).exists():
            shutil.rmtree(labels)
            if not any(out.iterdir()):
                out.rmdir()
    dataset = imported.dataset
    content = io.BytesIO()
    dataset.fields.write_parquet(content)
    replace_file(out / CELL_TABLE, content.getvalue())
    notes = []
    segmented = len(source.items) - imported.rejected
    empty = segmented - dataset.fields["field"].n_unique()
    if empty > 0:
        notes.append(f"{empty} of {segmented} fields have no cells.")
    large = dataset.fields["flags"].list.contains("larger than crop").sum()
    if large > 0.05 * len(dataset):
        notes.append(f"{large} of {len(dataset)} cells are larger than the window. Give a larger `window_um`.")
    return Imported(
        imported.path,
        imported.added,
        imported.known,
        imported.rejected,
        imported.missing_chunks,
        imported.examples,
        tuple(notes),
    )
