from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytoloc.dataset.importing import import_fields
from cytoloc.dataset.sources.hpa import HpaSource, find_hpa_fields
from cytoloc.errors import ImageError, TableError
from cytoloc.images.scale import Scaling
from cytoloc.labels.label_set import LabelSet
from tests.conftest import DATA

PLANES = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}


def write_field(folder: Path, stem: str, *, size: int = 64) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for value, (color, planes) in enumerate(PLANES.items(), start=1):
        rendering = np.zeros((size, size, 3), np.uint8)
        rendering[..., planes] = 50 * value
        Image.fromarray(rendering).save(folder / f"{stem}_{color}.jpg", quality=95)


def test_stains_become_channels_and_names_become_columns(tmp_path: Path) -> None:
    write_field(tmp_path / "v18", "10580_1610_C1_1")
    write_field(tmp_path / "v18", "10580_1610_C1_2_cr58f2a7")
    write_field(tmp_path / "v18" / "777", "50_A12_3")
    (tmp_path / "labels.csv").write_text("Id,Target\n777_50_A12_3,0\n10580_1610_C1_1,2 5\n")
    source = HpaSource(tmp_path / "v18", labels=tmp_path / "labels.csv", scaling=Scaling(size=32))
    dataset = import_fields(source, tmp_path / "e.dataset", size=32).dataset
    assert dataset.ids == ("777_50_A12_3", "10580_1610_C1_1")
    assert dataset.fields.select("antibody", "plate", "well", "field", "original_px").rows() == [
        ("777", "50", "A12", "3", 64),
        ("10580", "1610", "C1", "1", 64),
    ]
    means = dataset[0].mean(axis=(1, 2))
    assert np.abs(means - [50, 100, 150, 200]).max() < 4
    assert find_hpa_fields(tmp_path / "v18").unmatched == 0
    assert set(find_hpa_fields(tmp_path / "v18")) >= {"10580_1610_C1_2_cr58f2a7"}


def test_labels_are_read_in_the_label_set_that_is_given(tmp_path: Path) -> None:
    write_field(tmp_path / "v18", "10580_1610_C1_1")
    (tmp_path / "labels.csv").write_text("Id,Target\n10580_1610_C1_1,Cytosol|Golgi apparatus\n")
    source = HpaSource(
        tmp_path / "v18", labels=tmp_path / "labels.csv", label_set=LabelSet.hpa19(), scaling=Scaling(size=32)
    )
    dataset = import_fields(source, tmp_path / "e.dataset", size=32).dataset
    assert dataset.label_set == LabelSet.hpa19()
    assert [LabelSet.hpa19().names[index] for index in dataset.fields["labels"][0]] == ["Golgi apparatus", "Cytosol"]


def test_bad_fields_are_quarantined(tmp_path: Path) -> None:
    write_field(tmp_path / "v18", "1_2_C1_1")
    write_field(tmp_path / "v18", "1_2_C1_2")
    write_field(tmp_path / "v18", "1_2_C1_3")
    (tmp_path / "v18" / "1_2_C1_2_blue.jpg").unlink()
    Image.new("RGB", (40, 40)).save(tmp_path / "v18" / "1_2_C1_3_blue.jpg")
    source = HpaSource(tmp_path / "v18", labels=None, scaling=Scaling(size=32))
    dataset = import_fields(source, tmp_path / "e.dataset", size=32).dataset
    assert dataset.ids == ("1_2_C1_1",)
    reasons = {each.id: each.reason for each in dataset.quarantine}
    assert "the file 1_2_C1_2_blue.jpg of field 1_2_C1_2 is missing" in reasons["1_2_C1_2"]
    assert "blue 40 x 40 px" in reasons["1_2_C1_3"]


def test_labels_of_other_fields_are_refused(tmp_path: Path) -> None:
    write_field(tmp_path / "v18", "1_2_C1_1")
    (tmp_path / "labels.csv").write_text("Id,Target\n1_2_C1_9,0\n")
    with pytest.raises(TableError, match=r"v18 has no files of the 1 fields in .*labels\.csv, such as 1_2_C1_9"):
        HpaSource(tmp_path / "v18", labels=tmp_path / "labels.csv", scaling=Scaling(size=32))


def test_a_folder_without_fields_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="contains no fields"):
        find_hpa_fields(tmp_path)
    with pytest.raises(ImageError, match=r"The folder .*none does not exist"):
        find_hpa_fields(tmp_path / "none")


def test_real_renderings(tmp_path: Path) -> None:
    folder = DATA / "images" / "hpa_jpg"
    if not folder.is_dir():
        pytest.skip(f"real renderings are not at {folder}; set CYTOLOC_TEST_DATA")
    source = HpaSource(folder, labels=None, scaling=Scaling(size=256))
    assert source.found.unmatched == 0
    dataset = import_fields(source, tmp_path / "e.dataset", size=256).dataset
    assert dict(zip(dataset.ids, dataset.fields["original_px"], strict=True)) == {
        "10580_1610_C1_1": 2048,
        "10580_1756_B1_1": 2048,
        "10580_1758_B1_1": 2048,
        "10814_50_A1_1": 1728,
        "10814_50_A1_2": 1728,
        "800_A6_1": 2048,
    }
    # The id 800_A6_1 lacks the antibody.
    assert dataset.fields.select("antibody", "plate", "well").rows()[-1] == (None, "800", "A6")
    for row, name in enumerate(dataset.ids):
        with Image.open(folder / f"{name}_yellow.jpg") as image:
            whole = np.asarray(image, np.float32)[..., :2].mean(axis=-1)
        assert abs(float(dataset[row][3].mean()) - float(whole.mean())) < 1


def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_field(tmp_path, "1_2_C1_1")
    write_field(tmp_path / "1", "2_C1_1")
    with pytest.raises(ImageError, match=r"contains both .*2_C1_1_.*\.jpg"):
        find_hpa_fields(tmp_path)


def test_renderings_of_another_stain_are_rejected(tmp_path: Path) -> None:
    for name in ("1_2_C1_1", "1_2_C1_2", "1_2_C1_3"):
        write_field(tmp_path / "v18", name)
    (tmp_path / "v18" / "1_2_C1_2_blue.jpg").replace(tmp_path / "v18" / "1_2_C1_2_red.jpg")
    write_field(tmp_path / "v18", "1_2_C1_4")
    (tmp_path / "v18" / "1_2_C1_4_blue.jpg").replace(tmp_path / "v18" / "1_2_C1_2_blue.jpg")
    Image.new("L", (64, 64), 90).save(tmp_path / "v18" / "1_2_C1_3_red.jpg")
    source = HpaSource(tmp_path / "v18", labels=None, scaling=Scaling(size=32))
    dataset = import_fields(source, tmp_path / "e.dataset", size=32).dataset
    assert dataset.ids == ("1_2_C1_1",)
    reasons = {each.id: each.reason for each in dataset.quarantine}
    assert "brighter in blue" in reasons["1_2_C1_2"]
    assert "is gray" in reasons["1_2_C1_3"]
