"""A bundle knows its training images, and marks others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc._typing import UInt8Array
from cytoloc.errors import ImageError, ModelCaution, SettingsError
from cytoloc.predict.inputs.nonsense import NONSENSE, exposure
from cytoloc.predict.inputs.reference import Examples, InputReference, fit_reference
from cytoloc.predict.inputs.statistics import field_statistics, permuted_statistics
from tests.conftest import Cli


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> cl.Dataset:
    design = cl.Design(n_fields=12, seed=5, size=128, original_px=256)
    return cl.simulate_dataset(tmp_path_factory.mktemp("good") / "good.dataset", design)


def test_statistics_do_not_depend_on_the_batch_and_follow_exchanged_channels() -> None:
    fields = np.random.default_rng(0).integers(0, 256, (3, 4, 64, 64), dtype=np.uint8)
    fields[1, 2] //= 5
    whole = field_statistics(fields)
    np.testing.assert_array_equal(whole[1:2], field_statistics(fields[1:2]))
    for order in ((1, 0, 2, 3), (3, 0, 1, 2)):
        moved = field_statistics(fields[:, order])
        np.testing.assert_allclose(permuted_statistics(whole, order), moved, atol=1e-5)
    assert np.isfinite(field_statistics(np.zeros((1, 2, 48, 48), np.uint8))).all()
    assert np.isfinite(field_statistics(np.full((1, 1, 200, 200), 255, np.uint8))).all()


def blobs(rng: np.random.Generator) -> UInt8Array:
    """Two channels: bright disks, and rings around them."""
    rows, columns = np.mgrid[:64, :64]
    field = rng.normal(4, 1, (2, 64, 64))
    for _ in range(int(rng.integers(5, 9))):
        distance = np.hypot(rows - rng.uniform(0, 64), columns - rng.uniform(0, 64))
        field[0] += 150 * (distance < 6)
        field[1] += 90 * ((distance > 8) & (distance < 11))
    return np.clip(field, 0, 255).astype(np.uint8)


def test_a_reference_tells_good_fields_from_nonsense() -> None:
    rng = np.random.default_rng(0)
    good = np.stack([blobs(rng) for _ in range(120)])
    features = rng.normal(0, 1, (120, 12)).astype(np.float32)
    known = fit_reference([Examples(good, features)], channels=("nucleus", "protein"), pixel_um=0.5)
    assert known.marked[0] < 0.1
    known = InputReference.from_bytes(known.to_bytes())
    new = np.stack([blobs(rng) for _ in range(40)])
    usual = rng.normal(0, 1, (40, 12)).astype(np.float32)

    def found(fields: UInt8Array, features: cl._typing.Float32Array = usual) -> list[str]:
        return known.findings(field_statistics(fields), features)

    assert np.mean([bool(text) for text in found(new)]) < 0.15
    assert np.mean([bool(text) for text in found(np.stack([exposure(field, rng) for field in new]))]) < 0.2
    assert set(found(new[:, ::-1])) == {"the channels look exchanged"}
    blank = new.copy()
    blank[:, 1] = 0
    assert set(found(blank)) == {"protein is blank"}
    assert np.mean([bool(text) for text in found(rng.integers(0, 256, new.shape, dtype=np.uint8))]) == 1
    for name, change in NONSENSE.items():
        texts = found(np.stack([change(field, rng) for field in new]))
        assert np.mean([bool(text) for text in texts]) > 0.6, name
    assert all("features" in text for text in found(new, usual + 30) if text)
    scales = np.array([0.5, np.nan, 2.0] + [0.5] * 37, np.float32)
    assert known.findings(field_statistics(new), usual, pixel_um=scales)[2] == (
        "a pixel is 2 µm, but 0.5 µm in the training images"
    )


def test_unusual_fields_are_marked_and_not_decided(dataset: cl.Dataset) -> None:
    good = dataset[:]
    alone = np.zeros_like(good)
    alone[:, 1] = good[:, 1]
    noise = np.random.default_rng(0).integers(0, 256, good.shape, dtype=np.uint8)
    model = cl.load("builtin", device="cpu")
    with pytest.warns(ModelCaution) as caught:
        found = model.predict(np.concatenate([good, alone, noise]), tta=1)
    assert "fields are unusual" in str(caught[-1].message)
    assert found.decided is not None
    marked = np.array([bool(text) for text in found.cautions])
    assert marked[:12].sum() <= 2
    assert marked[12:].all()
    assert found.decided[:12].any()
    assert not found.decided[12:].any()
    assert found[12].caution == "microtubules is blank"
    assert found[12:14].cautions == found.cautions[12:14]
    with pytest.warns(ModelCaution):
        forced = cl.load("builtin", device="cpu", unusual="decide").predict(noise, tta=1)
    assert forced.decided is not None
    assert forced.decided.any()
    assert all(forced.cautions)
    with pytest.raises(ImageError, match=r"The field 0 is unusual: .*noise"):
        cl.load("builtin", device="cpu", unusual="refuse").predict(noise, tta=1)
    with pytest.raises(SettingsError, match="`unusual` has the unknown value 'ignore'"):
        cl.load("builtin", unusual="ignore")  # type: ignore[arg-type]


def test_a_missing_channel_marks_every_field(dataset: cl.Dataset) -> None:
    with pytest.warns(ModelCaution):
        found = cl.load("builtin", device="cpu").predict(
            dataset[:][:, :3], channels=cl.CHANNELS[:3], absent={"er": "zero"}, tta=1
        )
    assert set(found.cautions) == {"er not imaged"}


def test_cautions_are_written_read_joined_and_shown(dataset: cl.Dataset, tmp_path: Path, cli: Cli) -> None:
    fields = dataset[:4].copy()
    fields[2] = 255 - fields[2]
    mixed = cl.dataset_from_arrays(fields, out=tmp_path / "mixed.dataset", channels=cl.CHANNELS, ids=list("abcd"))
    out, table = tmp_path / "p.parquet", tmp_path / "t.csv"
    done = cli("predict", "builtin", mixed.path, "--out", out, "--table", table, "--tta", 1, "--device", "cpu")
    assert done.code == 0, done.err
    assert "The images of 1 field are unlike the training images. No location is predicted" in done.err
    read = cl.read_predictions(out)
    assert [bool(text) for text in read.cautions] == [False, False, True, False]
    parts = [read[[0, 1]], read[[2, 3]]]
    for number, part in enumerate(parts):
        cl.write_predictions(part, tmp_path / f"{number}.parquet")
    joined = cl.read_predictions([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    assert joined.cautions == read.cautions
    rows = pl.read_csv(table)
    assert rows.columns[:5] == ["id", "locations", "knowledge", "caution", "Nucleoplasm"]
    assert rows["caution"][2]
    assert not rows["locations"][2]
    assert rows["file"].to_list() == [str(mixed.path)] * 4
    both = cli("predict", "builtin", mixed.path, "--out", tmp_path / "q.parquet", "--strict-inputs", "--force")
    assert both.code == 2
    locations = tmp_path / "l.csv"
    forced = cli("predict", "builtin", mixed.path, "--out", tmp_path / "r.parquet", "--locations", locations, "--force")
    assert "No location is predicted" not in forced.err
    assert len(pl.read_csv(locations)) == 4


def test_a_batch_without_a_readable_field_is_no_error(dataset: cl.Dataset, tmp_path: Path) -> None:
    cl.simulate_kaggle(tmp_path / "images", cl.Design(n_fields=3, seed=5, size=128))
    last = sorted((tmp_path / "images").glob("*_green.png"))[-1]
    last.write_bytes(last.read_bytes()[:100])
    model = cl.load("builtin", device="cpu")
    with pytest.warns(ModelCaution):
        found = model.predict(tmp_path / "images", tta=1, batch_size=1)
    assert (len(found), len(found.rejected), len(found.cautions)) == (2, 1, 2)
    # Features have no ids, so a missing row would be nobody's.
    with pytest.raises(ImageError):
        model.embed(tmp_path / "images")
    cl.write_predictions(found, tmp_path / "p.parquet")
    assert cl.read_predictions(tmp_path / "p.parquet").rejected == found.rejected
