from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cytoloc import open_dataset
from cytoloc.dataset import store, writer
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import write_dataset
from cytoloc.errors import CytolocError, FormatError, OutputExistsError, TableError

SIZE = 40


def images_of(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 4, SIZE, SIZE), dtype=np.uint8)


def pack(path: Path, images: NDArray[np.uint8], ids: Sequence[str] | None = None) -> Dataset:
    names = ids or [f"f{i}" for i in range(len(images))]
    rows = [
        FieldRow(id=name, source="test", original_px=SIZE, original_width_px=SIZE, labels=(i % 28,))
        for i, name in enumerate(names)
    ]
    made_by = {"command": "test"}
    return write_dataset(path, zip(rows, images, strict=True), size=SIZE, made_by=made_by)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        # Four fields a shard, so that thirteen make three whole shards and a part of one.
        patch.setattr(writer, "SHARD_BYTES", 4 * 4 * SIZE * SIZE)
        return pack(tmp_path_factory.mktemp("store") / "a.dataset", images_of(13))


def test_pixels_come_back_as_they_were(packed: Dataset) -> None:
    np.testing.assert_array_equal(packed.read(range(13)), images_of(13))
    np.testing.assert_array_equal(packed[5], images_of(13)[5])
    assert packed[5].shape == (4, SIZE, SIZE)
    assert packed[5].dtype == np.uint8
    assert len(list(packed)) == len(packed) == 13


@given(rows=st.lists(st.integers(-13, 12), max_size=30))
def test_any_order_with_repeats(packed: Dataset, rows: list[int]) -> None:
    np.testing.assert_array_equal(packed.read(rows), images_of(13)[np.array(rows, int)])


@pytest.mark.parametrize("row", [13, -14])
def test_rows_beyond_the_end_are_refused(packed: Dataset, row: int) -> None:
    with pytest.raises(IndexError, match="rows 0 to 12"):
        packed[row]


def test_table_and_truth(packed: Dataset) -> None:
    assert packed.ids == tuple(f"f{i}" for i in range(13))
    assert packed.fields.schema == store.SCHEMA
    np.testing.assert_array_equal(packed.truth, np.eye(28, dtype=bool)[:13])
    assert packed.labelled.all()


def test_it_is_zarr_v3_and_sharded(packed: Dataset) -> None:
    meta = json.loads((packed.folder / "images.zarr" / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert meta["shape"] == [13, 4, SIZE, SIZE]
    assert meta["codecs"][0]["name"] == "sharding_indexed"
    assert meta["codecs"][0]["configuration"]["chunk_shape"] == [1, 4, SIZE, SIZE]
    assert len(list((packed.folder / "images.zarr" / "c").iterdir())) == 4


def test_the_fingerprint_knows_pixels_labels_and_ids(tmp_path: Path) -> None:
    images = images_of(3)
    same = [pack(tmp_path / f"{i}.dataset", images).fingerprint for i in range(2)]
    renamed = pack(tmp_path / "r.dataset", images, ["x", "y", "z"]).fingerprint
    images[2, 1, 0, 0] ^= 1
    changed = pack(tmp_path / "c.dataset", images).fingerprint
    assert same[0] == same[1]
    assert len({same[0], renamed, changed}) == 3


def test_a_flipped_byte_is_found(packed: Dataset, tmp_path: Path) -> None:
    assert list(packed.damaged()) == []
    copy = tmp_path / "copy.dataset"
    shutil.copytree(packed.path, copy)
    shard = copy / "images.zarr" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 0xFF
    shard.write_bytes(content)
    assert list(open_dataset(copy).damaged()) == ["f4"]


def test_a_missing_shard_is_damage_and_not_darkness(packed: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy.dataset"
    shutil.copytree(packed.path, copy)
    shutil.rmtree(copy / "images.zarr" / "c" / "1")
    with pytest.raises(FormatError, match="is damaged: NOT_FOUND"):
        open_dataset(copy).read([5])
    black = pack(tmp_path / "black.dataset", np.zeros((3, 4, SIZE, SIZE), np.uint8))
    assert not black.read([0, 1, 2]).any()


def test_rows_must_be_whole_numbers(packed: Dataset) -> None:
    for rows in (packed.labelled, [1.9], [[1]]):
        with pytest.raises(TypeError, match="whole numbers"):
            packed.read(rows)  # type: ignore[arg-type]


def test_brackets_in_a_path_are_letters(tmp_path: Path) -> None:
    assert len(pack(tmp_path / "b[2].dataset", images_of(2))) == 2


def test_nothing_is_left_when_fields_fail(tmp_path: Path) -> None:
    def broken() -> object:
        yield FieldRow(id="a", source="test", original_px=SIZE, original_width_px=SIZE), images_of(1)[0]
        raise CytolocError("the second field is broken")

    with pytest.raises(CytolocError, match="second field"):
        write_dataset(tmp_path / "a.dataset", broken(), size=SIZE, made_by={})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_repeated_ids_and_existing_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="x occurs twice"):
        pack(tmp_path / "a.dataset", images_of(2), ["x", "x"])
    assert list(tmp_path.iterdir()) == []
    pack(tmp_path / "a.dataset", images_of(1))
    with pytest.raises(OutputExistsError):
        pack(tmp_path / "a.dataset", images_of(2))
    assert len(open_dataset(tmp_path / "a.dataset")) == 1


def test_what_is_no_dataset_is_refused(packed: Dataset, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such dataset"):
        open_dataset(tmp_path / "missing.dataset")
    (tmp_path / "file.dataset").write_text("")
    with pytest.raises(FormatError, match="not a dataset but a file"):
        open_dataset(tmp_path / "file.dataset")
    newer = tmp_path / "newer.dataset"
    shutil.copytree(packed.path, newer)
    header = json.loads((newer / "dataset.json").read_text())
    (newer / "dataset.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(FormatError, match="version 99; this release reads version 5"):
        open_dataset(newer)
    (newer / "dataset.json").write_text(json.dumps({**header, "fields": 12}))
    with pytest.raises(FormatError, match="do not agree"):
        open_dataset(newer)


def test_another_implementation_of_zarr_reads_the_same_pixels(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr comes with the extra formats")
    images = images_of(5)
    rows = [FieldRow(id=str(i), source="test", original_px=SIZE, original_width_px=SIZE) for i in range(5)]
    dataset = write_dataset(tmp_path / "a.dataset", zip(rows, images, strict=True), size=SIZE, made_by={})
    array = zarr.open_array(dataset.folder / "images.zarr", mode="r")
    assert array.shape == images.shape
    np.testing.assert_array_equal(array[:], images)
