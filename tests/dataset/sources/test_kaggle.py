from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cytoloc.dataset.importing import import_fields
from cytoloc.dataset.sources.kaggle import KaggleSource, read_kaggle_field
from cytoloc.dataset.store import Dataset
from cytoloc.images.scale import Scaling


def import_kaggle(folder: Path, path: Path, *, labels: Path | None, size: int, limit: int | None = None) -> Dataset:
    source = KaggleSource(folder, labels=labels, scaling=Scaling(size=size), limit=limit)
    return import_fields(source, path, size=size).dataset


def test_fields_come_in_the_order_of_the_labels(images: Path, tmp_path: Path) -> None:
    dataset = import_kaggle(images, tmp_path / "a.dataset", labels=images / "labels.csv", size=48)
    assert dataset.ids == ("b", "a", "c")
    assert dataset.fields["labels"].to_list() == [[0, 16], [25], [7]]
    assert dataset.fields["original_px"].to_list() == [48, 48, 48]
    assert dataset.fields["source"].unique().to_list() == ["kaggle"]
    for row, name in enumerate(dataset.ids):
        np.testing.assert_array_equal(dataset[row], read_kaggle_field(images, name))


def test_channels_keep_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    for value, color in enumerate(("red", "green", "blue", "yellow"), start=1):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(folder / f"x_{color}.png")
    assert read_kaggle_field(folder, "x")[:, 0, 0].tolist() == [1, 2, 3, 4]


def test_without_labels_every_field_is_imported_unlabeled(images: Path, tmp_path: Path) -> None:
    dataset = import_kaggle(images, tmp_path / "a.dataset", labels=None, size=32)
    assert dataset.ids == ("a", "b", "c")
    assert not dataset.labeled.any()
    assert dataset.size == 32
    assert dataset.fields["original_px"].to_list() == [48, 48, 48]


def test_only_the_first_fields_are_imported(images: Path, tmp_path: Path) -> None:
    labels = images / "labels.csv"
    assert import_kaggle(images, tmp_path / "a.dataset", labels=labels, size=32, limit=2).ids == ("b", "a")


def test_real_fields(real_fields: Path, tmp_path: Path) -> None:
    labels = real_fields.parent / "kaggle512.csv"
    dataset = import_kaggle(real_fields, tmp_path / "real.dataset", labels=labels, size=512)
    assert len(dataset) == 74
    assert int(dataset.truth.any(axis=0).sum()) == 21
    name = dataset.ids[10]
    with Image.open(real_fields / f"{name}_yellow.png") as image:
        np.testing.assert_array_equal(dataset[10][3], np.asarray(image))


def test_two_imports_are_the_same_bytes(images: Path, tmp_path: Path) -> None:
    def bytes_of(path: Path) -> dict[str, bytes]:
        import_kaggle(images, path, labels=images / "labels.csv", size=32)
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}

    assert bytes_of(tmp_path / "1.dataset") == bytes_of(tmp_path / "2.dataset")
