"""Fields at full resolution, and their cells as the source of an import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cytoloc.cells.crops import CropOptions, crop_cell
from cytoloc.cells.labels import CellLabels, labels_file, read_cell_labels, write_labels
from cytoloc.cells.measures import TOO_LARGE, measure_cells
from cytoloc.cells.methods import FieldImage, Method
from cytoloc.choices import check_type
from cytoloc.dataset.arguments import parse_channels_argument
from cytoloc.dataset.fields import CellRow, FieldRow
from cytoloc.dataset.importing import FieldSource, Loaded
from cytoloc.dataset.manifest import CELL_LABELS
from cytoloc.dataset.quarantine import Rejected, rejected
from cytoloc.dataset.sources.field_files import FieldReader
from cytoloc.dataset.sources.folder import FolderSource
from cytoloc.dataset.sources.hpa import HpaFiles, HpaSource
from cytoloc.dataset.sources.kaggle import KaggleFiles, KaggleSource
from cytoloc.dataset.sources.planes import PlaneChoice
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ImageError, SettingsError
from cytoloc.images.depth import DepthRule
from cytoloc.images.scale import NATIVE, Scaling
from cytoloc.labels.label_set import LabelSet

AS_IS = Scaling(size=NATIVE)


class DatasetFields:
    """The fields of a dataset.

    Args:
        dataset: The dataset.

    Raises:
        SettingsError: If it is a dataset of cells.
    """

    quick = False

    def __init__(self, dataset: Dataset) -> None:
        if dataset.of_cells:
            raise SettingsError(f"{dataset.path} is a dataset of cells.", hint="Give a dataset of fields.")
        self.dataset = dataset
        self.folder = Path(dataset.path)
        self.channels = dataset.channels
        self.label_set = dataset.label_set
        self.items: Sequence[str] = dataset.ids
        self.made_by: dict[str, Any] = {"command": "dataset", "fingerprint": dataset.fingerprint}

    def loader(self, item: str) -> Callable[[], Iterable[Loaded]]:
        """Return a function that loads a field."""
        return partial(self._load, item)

    def _load(self, item: str) -> list[Loaded]:
        number = self.dataset.row(item)
        known = self.dataset.fields.row(number, named=True)
        size = self.dataset.size
        pixel_um = known["packed_um"]
        if pixel_um is None and known["pixel_um"] is not None:
            pixel_um = known["pixel_um"] * known["original_px"] / size
        kept = ("id", "source", "antibody", "plate", "well", "field", "gene", "cell_line")
        row = FieldRow(
            **{name: known[name] for name in kept},
            labels=None if known["labels"] is None else tuple(known["labels"]),
            original_px=size,
            original_width_px=size,
            pixel_um=pixel_um,
        )
        return [(row, self.dataset[number])]


def fields_at_full_resolution(
    inputs: Dataset | str | Path, *, channels: Mapping[str, str | int] | Sequence[str] | None = None
) -> FieldSource:
    """Return the fields of a dataset, folder or file, with images as they are.

    Args:
        inputs: A dataset, a folder of image files, or one image file with several channels.
        channels: The pattern, number or name of each channel, as for :func:`cytoloc.import_folder`. Not needed for
            datasets, and for files named as in the 2018 Kaggle competition or by the Human Protein Atlas.

    Returns:
        The source of the fields.

    Raises:
        ImageError: If there are no fields.
        FormatError: If a dataset is damaged.
        SettingsError: If ``channels`` is needed and missing, or given for a dataset.
    """
    if isinstance(inputs, Dataset) or "://" in str(inputs) or (Path(inputs) / "dataset.json").exists():
        if channels is not None:
            raise SettingsError("`channels` is given, but a dataset states its channels.", hint="Remove `channels`.")
        return DatasetFields(inputs if isinstance(inputs, Dataset) else open_dataset(inputs))
    path = Path(inputs)
    if not path.exists():
        raise ImageError(f"{path} does not exist.", hint="Give a dataset, or a folder of image files.")
    if channels is not None:
        alone = path.is_file()
        reader = FieldReader(
            folder=path.parent if alone else path,
            channels=parse_channels_argument(channels),
            scaling=AS_IS,
            planes=PlaneChoice(),
            depth=DepthRule(),
            pixel_um=None,
            strict=False,
        )
        source = FolderSource(reader, label_set=LabelSet.hpa28())
        if alone:
            source.items = [
                item for item in source.items if item in (path.name, path.name.partition(".")[0], path.stem)
            ]
        return source
    if path.is_dir() and len(KaggleFiles(path)):
        return KaggleSource(path, labels=None, scaling=AS_IS)
    if path.is_dir() and len(HpaFiles(path)):
        return HpaSource(path, labels=None, scaling=AS_IS)
    raise SettingsError(
        f"{path} has no files named as in the 2018 Kaggle competition or by the Human Protein Atlas.",
        hint="Say where each channel is with `channels`, such as nucleus=DAPI,protein=GFP, as for `cytoloc import"
        " folder`.",
    )


class CellSource:
    """The cells of fields, as the source of an import. An item is a field, or a file with several fields.

    Args:
        fields: The fields.
        method: The method of segmentation.
        crops: How cells are cut.
        pixel_um: Pixel size in micrometers. Default: as each field states it.
        labels: The folder for label images.
    """

    quick = False

    def __init__(
        self, fields: FieldSource, *, method: Method, crops: CropOptions, pixel_um: float | None, labels: Path
    ) -> None:
        self.fields = fields
        self.method = method
        self.crops = crops
        self.pixel_um = pixel_um
        self.labels = labels
        self.folder = fields.folder
        self.channels = fields.channels
        self.label_set = fields.label_set
        self.items = fields.items
        self.made_by: dict[str, Any] = {
            "command": "segment",
            "fields": fields.made_by,
            "segmentation": method.note,
            "crops": crops.note,
            "pixel_um": pixel_um,
        }

    def loader(self, item: str) -> Callable[[], Iterable[Loaded]]:
        """Return a function that segments the fields of an item, and loads their cells."""
        return partial(self._load, self.fields.loader(item))

    def _load(self, load: Callable[[], Iterable[Loaded]]) -> Iterator[Loaded]:
        for loaded in load():
            if isinstance(loaded, Rejected):
                yield loaded
                continue
            row, image = loaded
            try:
                pixel_um = self.pixel_um if self.pixel_um is not None else row.pixel_um
                window_px = self.crops.window(pixel_um, called=row.id)
                labels = self.method.segment(FieldImage(row.id, image, self.channels, pixel_um))
                cells = measure_cells(labels)
                write_labels(labels_file(self.labels, row.id), labels)
            except ImageError as error:
                yield rejected(row.id, error)
                continue
            described = {**vars(row), "pixel_um": pixel_um, "field": row.id}
            described |= {"original_px": window_px, "original_width_px": window_px, "missing_chunks": 0}
            for cell in cells:
                if not self.crops.keeps(cell):
                    continue
                crop = crop_cell(image, labels.cells, cell, self.crops, window_px=window_px)
                flags = cell.flags if crop.is_whole else (*cell.flags, TOO_LARGE)
                of_cell: dict[str, Any] = {
                    **described,
                    "id": f"{row.id}_c{cell.number}",
                    "packed_um": None if pixel_um is None else pixel_um * window_px / self.crops.size,
                    "flags": (*row.flags, *flags),
                }
                yield (
                    CellRow(
                        **of_cell,
                        cell=cell.number,
                        x=cell.x,
                        y=cell.y,
                        area=cell.area,
                        area_um2=None if pixel_um is None else cell.area * pixel_um**2,
                        nuclei=cell.nuclei,
                        nucleus_area=cell.nucleus_area,
                        turned=cell.axis if self.crops.turned else None,
                        is_masked=self.crops.masked,
                    ),
                    crop.image,
                )


def labels_of(cells: Dataset, field: str) -> CellLabels:
    """Return the label images of a field from a dataset of cells.

    Args:
        cells: The dataset of cells.
        field: The id of the field.

    Returns:
        The numbers of cells and nuclei, in the size of the field.

    Raises:
        ImageError: If the label image is missing or damaged.
        SettingsError: If the dataset has no cells.
    """
    check_type(cells, Dataset, argument="cells")
    check_type(field, str, argument="field")
    if not cells.of_cells:
        raise SettingsError(
            f"{cells.path} is a dataset of fields, not of cells.", hint="Make one with `cytoloc segment`."
        )
    return read_cell_labels(labels_file(cells.folder / CELL_LABELS, field))
