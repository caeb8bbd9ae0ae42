from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import tensorstore
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import cytoloc as cl
from cytoloc import open_dataset
from cytoloc.channels import CHANNELS, COLORS
from cytoloc.dataset import writer
from cytoloc.dataset.fields import FieldRow, schema_of
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import write_dataset
from cytoloc.errors import CytolocError, FormatError, OutputExistsError, TableError
from cytoloc.labels.label_set import LabelSet

# The images are noise or flat, which imports warn about.
pytestmark = pytest.mark.filterwarnings("ignore::cytoloc.errors.DatasetWarning")

SIZE = 40


def images_of(count: int, channels: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, channels, SIZE, SIZE), dtype=np.uint8)


def pack(
    path: Path,
    images: NDArray[np.uint8],
    ids: Sequence[str] | None = None,
    *,
    channels: Sequence[str] = CHANNELS,
    label_set: LabelSet | None = None,
) -> Dataset:
    rows = [
        FieldRow(id=name, source="test", original_px=SIZE, original_width_px=SIZE, labels=(i % 28,))
        for i, name in enumerate(ids or [f"f{i}" for i in range(len(images))])
    ]
    return write_dataset(
        path,
        zip(rows, images, strict=True),
        size=SIZE,
        channels=channels,
        label_set=label_set or LabelSet.hpa28(),
        made_by={"command": "test"},
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        # Two fields a shard and five a segment: 13 fields make segments of 5, 5 and 3, each with half a shard.
        patch.setattr(writer, "SHARD_BYTES", 2 * 4 * SIZE * SIZE)
        patch.setattr(writer, "SEGMENT_BYTES", 5 * 4 * SIZE * SIZE)
        return pack(tmp_path_factory.mktemp("store") / "a.dataset", images_of(13))


def test_pixels_come_back_as_they_were(packed: Dataset) -> None:
    assert [segment.fields for segment in packed.manifest.segments] == [5, 5, 3]
    np.testing.assert_array_equal(packed.read(range(13)), images_of(13))
    np.testing.assert_array_equal(packed[5], images_of(13)[5])
    assert packed[5].shape == (4, SIZE, SIZE)
    assert packed[5].dtype == np.uint8
    assert len(list(packed)) == len(packed) == 13


@given(rows=st.lists(st.integers(-13, 12), max_size=30))
def test_any_order_with_repeats_across_segments(packed: Dataset, rows: list[int]) -> None:
    read = packed.read(rows)
    np.testing.assert_array_equal(read, images_of(13)[np.array(rows, int)])
    assert read.shape == (len(rows), 4, SIZE, SIZE)


def test_a_row_that_repeats_is_decoded_once(packed: Dataset) -> None:
    def decoded() -> int:
        (metric,) = tensorstore.experimental_collect_matching_metrics("/tensorstore/cache/chunk_cache/reads")
        return int(metric["values"][0]["value"])

    costs = []
    for rows in ([3, 11], [3, 11, 3, 3, 11, -2], [3] * 20):
        before = decoded()
        packed.read(rows)
        costs.append(decoded() - before)
    assert costs[0] == costs[1] == 2 * costs[2] > 0


@pytest.mark.parametrize("row", [13, -14])
def test_rows_beyond_the_end_are_refused(packed: Dataset, row: int) -> None:
    with pytest.raises(IndexError, match="rows 0 to 12"):
        packed[row]


def test_rows_must_be_integers(packed: Dataset) -> None:
    for rows in (packed.labeled, [1.9], [[1]]):
        with pytest.raises(TypeError, match="integers"):
            packed.read(rows)  # type: ignore[arg-type]


def test_table_and_truth(packed: Dataset) -> None:
    assert packed.ids == tuple(f"f{i}" for i in range(13))
    assert packed.fields.schema == schema_of(CHANNELS)
    assert packed.header["imports"][0]["settings"] == {"command": "test"}
    np.testing.assert_array_equal(packed.truth, np.eye(28, dtype=bool)[:13])
    assert packed.labeled.all()
    assert packed.quarantine == ()


def test_channels_and_label_set_are_those_that_were_given(tmp_path: Path) -> None:
    mine = LabelSet.from_names(["Rim", "Core"], name="mine")
    dataset = pack(tmp_path / "a.dataset", images_of(2, 2), channels=("protein", "mito"), label_set=mine)
    assert (dataset.channels, dataset.label_set) == (("protein", "mito"), mine)
    np.testing.assert_array_equal(dataset.read([1, 0]), images_of(2, 2)[::-1])
    np.testing.assert_array_equal(dataset.truth, np.eye(2, dtype=bool))
    assert [name for name in dataset.fields.columns if "phash" in name] == ["phash_protein", "phash_mito"]
    assert dataset.fields["black"].to_list() == [[None, None]] * 2


def test_it_is_zarr_v3_and_sharded(packed: Dataset) -> None:
    folder = packed.folder / "segments" / "0001" / "images.zarr"
    meta = json.loads((folder / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert meta["shape"] == [5, 4, SIZE, SIZE]
    assert meta["codecs"][0]["name"] == "sharding_indexed"
    assert meta["codecs"][0]["configuration"]["chunk_shape"] == [1, 4, SIZE, SIZE]
    assert len(list((folder / "c").iterdir())) == 3


def test_another_implementation_of_zarr_reads_the_same_pixels(packed: Dataset) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr comes with the extra formats")
    folders = sorted((packed.folder / "segments").glob("*/images.zarr"))
    read = np.concatenate([zarr.open_array(folder, mode="r")[:] for folder in folders])
    np.testing.assert_array_equal(read, images_of(13))


def test_the_fingerprint_knows_all_that_is_learned_from_but_no_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_of(3)
    same = pack(tmp_path / "a.dataset", images).fingerprint
    monkeypatch.setattr(writer, "SEGMENT_BYTES", 1)
    split = pack(tmp_path / "b.dataset", images)
    assert (len(split.manifest.segments), split.fingerprint) == (3, same)
    renamed = pack(tmp_path / "r.dataset", images, ["x", "y", "z"]).fingerprint
    other_set = pack(tmp_path / "l.dataset", images, label_set=LabelSet.hpa19()).fingerprint
    swapped = pack(tmp_path / "s.dataset", images, channels=(*CHANNELS[:2], CHANNELS[3], CHANNELS[2])).fingerprint
    first, second, *others = LabelSet.hpa28().locations
    exchanged = (first._replace(name=second.name), second._replace(name=first.name), *others)
    other_names = pack(tmp_path / "n.dataset", images, label_set=LabelSet("x", 1, exchanged)).fingerprint
    images[2, 1, 0, 0] ^= 1
    changed = pack(tmp_path / "c.dataset", images).fingerprint
    assert len({same, renamed, other_set, swapped, other_names, changed}) == 6


@pytest.fixture
def copy(packed: Dataset, tmp_path: Path) -> Path:
    return shutil.copytree(packed.folder, tmp_path / "copy.dataset")


def test_a_flipped_byte_of_a_shard_is_found(copy: Path) -> None:
    assert list(open_dataset(copy).damaged()) == []
    shard = copy / "segments" / "0002" / "images.zarr" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 0xFF
    shard.write_bytes(content)
    assert list(open_dataset(copy).damaged()) == ["f7"]


def test_a_missing_shard_is_damage_and_not_darkness(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "segments" / "0002" / "images.zarr" / "c" / "1")
    dataset = open_dataset(copy)
    with pytest.raises(FormatError, match="is damaged: NOT_FOUND"):
        dataset.read([0, 7])
    assert list(dataset.damaged()) == ["f7", "f8"]
    black = pack(tmp_path / "black.dataset", np.zeros((3, 4, SIZE, SIZE), np.uint8))
    assert not black.read([0, 1, 2]).any()


@pytest.mark.parametrize(
    ("gone", "said"), [("", "missing"), ("/images.zarr", "damaged"), ("/fields.parquet", "fields.parquet is missing")]
)
def test_a_segment_that_is_named_but_missing_is_damage(copy: Path, gone: str, said: str) -> None:
    place = copy / f"segments/0002{gone}"
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(FormatError, match=said):
        open_dataset(copy)


def test_any_changed_byte_of_a_table_is_damage(copy: Path) -> None:
    # There are some by which polars ends the process.
    table, rng = copy / "segments" / "0003" / "fields.parquet", np.random.default_rng(0)
    good = table.read_bytes()
    for place in rng.integers(len(good), size=50):
        changed = bytearray(good)
        changed[place] ^= 1 << int(rng.integers(8))
        table.write_bytes(changed)
        with pytest.raises(FormatError, match=r"0003/fields\.parquet is not the file that was written"):
            open_dataset(copy)
    pl.read_parquet(good).head(2).write_parquet(table)
    with pytest.raises(FormatError, match="not the file that was written"):
        open_dataset(copy)


def test_what_is_no_dataset_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"The dataset .* does not exist"):
        open_dataset(tmp_path / "missing.dataset")
    (tmp_path / "file.dataset").write_text("")
    with pytest.raises(FormatError, match="is a file, not a dataset"):
        open_dataset(tmp_path / "file.dataset")
    (tmp_path / "old.dataset").mkdir()
    with pytest.raises(FormatError, match=r"it has no dataset\.json"):
        open_dataset(tmp_path / "old.dataset")
    (tmp_path / "old.dataset" / "atlas.json").write_text("{}")
    with pytest.raises(FormatError, match="written by a development version") as caught:
        open_dataset(tmp_path / "old.dataset")
    assert "Import the images again" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 99}, "of version 99, but this release reads version 1"),
        ({"format": "other"}, "not a cytoloc-dataset file"),
        ({"size": None}, "damaged"),
        ({"size": 41}, "do not match"),
        ({"channels": ["protein", "nucleus", "er", "mito"]}, "does not agree"),
        ({"channels": ["nucleus"]}, "damaged"),
        ({"label_set": {}}, "damaged"),
        ({"segments": [{"name": "0001"}]}, "damaged"),
    ],
)
def test_another_header_is_refused(copy: Path, changes: dict[str, object], said: str) -> None:
    header = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps(header | changes))
    with pytest.raises(FormatError, match=said):
        open_dataset(copy)


def test_brackets_in_a_path_are_letters(tmp_path: Path) -> None:
    assert len(pack(tmp_path / "b[2].dataset", images_of(2))) == 2


def test_nothing_is_left_when_fields_fail(tmp_path: Path) -> None:
    def broken() -> object:
        yield FieldRow(id="a", source="test", original_px=SIZE, original_width_px=SIZE), images_of(1)[0]
        raise CytolocError("the second field is broken")

    form = {"size": SIZE, "channels": CHANNELS, "label_set": LabelSet.hpa28(), "made_by": {}}
    with pytest.raises(CytolocError, match="second field"):
        write_dataset(tmp_path / "a.dataset", broken(), **form)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_repeated_ids_and_existing_outputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="x occurs twice"):
        pack(tmp_path / "a.dataset", images_of(2), ["x", "x"])
    assert list(tmp_path.iterdir()) == []
    pack(tmp_path / "a.dataset", images_of(1))
    with pytest.raises(OutputExistsError):
        pack(tmp_path / "a.dataset", images_of(2))
    assert len(open_dataset(tmp_path / "a.dataset")) == 1


@pytest.mark.parametrize(
    ("edges", "size", "options", "resample"),
    [
        ([64, 96], 32, {}, "area"),
        ([64, 96], 32, {"resample": "nearest"}, "nearest"),
        ([32, 32], 32, {"resample": "nearest"}, None),
        ([64, 32], 32, {}, None),
        ([512], 512, {}, "nearest"),
    ],
)
def test_a_dataset_knows_how_its_images_were_scaled(
    edges: list[int], size: int, options: dict[str, Any], resample: str | None, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for number, edge in enumerate(edges):
        for color in COLORS:
            image = np.random.default_rng(number).integers(0, 256, (edge, edge), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "images" / f"{number}_{color}.png"), image)
    chosen = cl.ImportOptions(**options)
    dataset = cl.import_kaggle(tmp_path / "images", out=tmp_path / "x.dataset", size=size, options=chosen)
    assert dataset.resample == resample
    assert dataset.header["imports"][0]["settings"]["scaling"]["resample"] == chosen.resample
