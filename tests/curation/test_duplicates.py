from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from cytoloc.channels import CHANNELS
from cytoloc.curation.duplicates import find_duplicates, groups_of, pairs_schema, verdict
from cytoloc.curation.registration import registered_correlation
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.from_arrays import dataset_from_arrays
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import write_dataset
from cytoloc.errors import ChannelError, DatasetWarning
from cytoloc.images.hashes import TRANSFORMS, turned
from cytoloc.labels.label_set import LabelSet
from cytoloc.simulate.plan import Design
from cytoloc.simulate.study import simulate_dataset
from tests.conftest import Cli
from tests.curation.channels import Picked

Image = NDArray[np.uint8]


def jpeg(image: Image) -> Image:
    def plane(each: Image) -> Image:
        _, content = cv2.imencode(".jpg", each, [cv2.IMWRITE_JPEG_QUALITY, 50])
        return np.asarray(cv2.imdecode(content, cv2.IMREAD_GRAYSCALE), np.uint8)

    return np.stack([plane(each) for each in image])


def darker(image: Image) -> Image:
    return (image * 0.7).astype(np.uint8)


def cropped(image: Image) -> Image:
    edge = image.shape[1]
    inside = image[:, 2 : edge - 1, 1 : edge - 2]
    return np.stack([cv2.resize(plane, (edge, edge)) for plane in inside]).astype(np.uint8)


COPIES: dict[str, Callable[[Image], Image]] = {"jpeg": jpeg, "darker": darker, "cropped": cropped}
COPIES |= {transform: lambda image, t=transform: turned(image, t) for transform in TRANSFORMS[1:]}  # type: ignore[misc]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return simulate_dataset(
        tmp_path_factory.mktemp("original") / "original.dataset", Design(n_fields=14, seed=5, size=128)
    )


@pytest.fixture(scope="module")
def copies(original: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset of copies of the first fields, a kind each."""
    path = tmp_path_factory.mktemp("copies") / "copies.dataset"
    rows = (FieldRow(id=kind, source="copy", original_px=128, original_width_px=128) for kind in COPIES)
    images = (make(original[row]) for row, make in enumerate(COPIES.values()))
    return write_dataset(
        path,
        zip(rows, images, strict=True),
        size=128,
        channels=CHANNELS,
        label_set=LabelSet.hpa28(),
        made_by={"command": "test"},
    )


def test_every_planted_copy_is_found_and_nothing_else(original: Dataset, copies: Dataset) -> None:
    pairs = find_duplicates([original, copies])
    sure = pairs.filter(pl.col("verdict") == "copy")
    # Either field of a pair may be the first.
    found = {frozenset(pair) for pair in sure.select("a", "b").iter_rows()}
    assert found == {frozenset((original.ids[row], kind)) for row, kind in enumerate(COPIES)}
    assert pairs.filter(pl.col("verdict") == "doubtful").is_empty()


def test_the_transform_turns_a_onto_b(original: Dataset, copies: Dataset) -> None:
    images = dict(zip([*original.ids, *copies.ids], [*original, *copies], strict=True))
    seen = set()
    for pair in find_duplicates([original, copies]).filter(pl.col("verdict") == "copy").iter_rows(named=True):
        a, b = images[pair["a"]], images[pair["b"]]
        if pair["b"] in TRANSFORMS or pair["a"] in TRANSFORMS:
            np.testing.assert_array_equal(turned(a, pair["transform"]), b)
            seen.add(pair["transform"])
    assert len(seen) >= 6


def test_without_turns_only_copies_as_they_lie_are_found(original: Dataset, copies: Dataset) -> None:
    pairs = find_duplicates([original, copies], turned_too=False, confirm=False)
    assert {*pairs["a"], *pairs["b"]} >= {"jpeg", "darker", "cropped"}
    assert set(pairs["transform"]) == {"r0"}
    assert pairs["correlation"].null_count() == pairs.height


def test_fields_of_a_well_are_not_copies(original: Dataset) -> None:
    wells = original.fields.select("antibody", "well").is_duplicated()
    assert wells.sum() > 4
    assert find_duplicates([original]).filter(pl.col("verdict") != "different").is_empty()


def test_a_field_agrees_with_its_copy_and_with_no_other(original: Dataset) -> None:
    one, other = original[0], original[1]
    assert registered_correlation(one, one) == pytest.approx(1)
    assert registered_correlation(one, cropped(one)) > 0.9
    assert registered_correlation(one, np.roll(one, (5, -7), axis=(1, 2))) > 0.9
    assert registered_correlation(one, other) < 0.5
    assert registered_correlation(one, np.zeros_like(one)) == pytest.approx(0)
    assert (verdict(0.9), verdict(0.6), verdict(0.2)) == ("copy", "doubtful", "different")


def test_groups_are_what_pairs_tie_together() -> None:
    pairs = pl.DataFrame({"a": ["x", "y", "p"], "b": ["y", "z", "q"]})
    assert groups_of(pairs) == [["x", "y", "z"], ["p", "q"]]
    assert groups_of(pairs.head(0)) == []


def test_the_command_writes_pairs_groups_and_a_sheet(
    cli: Cli, original: Dataset, copies: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, groups, sheet = (tmp_path / name for name in ("pairs.csv", "groups.csv", "doubtful.png"))
    call = ["duplicates", original.path, copies.path]
    said = cli(*call, "--out", out, "--groups", groups, "--sheet", sheet)
    assert said.code == 0, said.err
    assert f"{len(COPIES)} pairs of {len(original) + len(copies)} fields, 0 of them doubtful" in said.out
    assert "no sheet was drawn" in said.out
    schema = pairs_schema(original.channels)
    pairs = pl.read_csv(out, schema=schema)
    assert pairs.schema == schema
    assert pairs.height == len(COPIES)
    assert pl.read_csv(groups)["group"].n_unique() == len(COPIES)
    assert "already exists" in cli(*call, "--out", out).err
    assert cli("folds", original.path, "-k", 2, "--pairs", out, "--out", tmp_path / "folds.csv").code == 0

    monkeypatch.setattr("cytoloc.curation.duplicates.COPY", 1.1)
    drawn = cli(*call, "--out", tmp_path / "again.csv", "--sheet", sheet)
    assert f"{len(COPIES)} doubtful pairs" in drawn.out
    assert sheet.stat().st_size > 10_000
    assert cli(*call, "--limits", "14,12", "--out", tmp_path / "no.csv").code == 2


def planted(pairs: pl.DataFrame) -> set[str]:
    """Return the kinds of copies that were found."""
    sure = pairs.filter(pl.col("verdict") == "copy")
    return {name for name in (*sure["a"], *sure["b"]) if name in COPIES}


def same(*channels: str) -> dict[str, str]:
    return {channel: channel for channel in channels}


def test_datasets_of_two_channels_are_compared_in_both(original: Dataset, copies: Dataset) -> None:
    two = same("protein", "nucleus")
    pairs = find_duplicates([Picked(original, two), Picked(copies, two)])
    assert planted(pairs) == set(COPIES)
    assert [name for name in pairs.columns if name.startswith("d_")] == ["d_protein", "d_nucleus"]


def test_channels_that_both_have_are_compared(original: Dataset, copies: Dataset) -> None:
    # In another order, and with one that only the second has.
    other = Picked(copies, {"actin": "er", "nucleus": "nucleus", "protein": "protein"})
    pairs = find_duplicates([original, other])
    assert planted(pairs) == set(COPIES)
    distances = [name for name in pairs.columns if name.startswith("d_")]
    assert distances == ["d_microtubules", "d_protein", "d_nucleus", "d_er", "d_actin"]
    sure = pairs.filter(pl.col("verdict") == "copy")
    assert sure["d_microtubules"].null_count() == sure["d_actin"].null_count() == sure.height
    assert sure["d_protein"].null_count() == 0


def test_own_channels_are_compared_if_they_have_a_limit(original: Dataset, copies: Dataset) -> None:
    own = {"protein": "protein", "actin": "microtubules"}
    both = [Picked(original, own), Picked(copies, own)]
    assert planted(find_duplicates(both, limits={"protein": 12, "actin": 14})) == set(COPIES)
    with pytest.raises(ChannelError, match=r"actin\. Channels with limits: none"):
        find_duplicates(both, limits={"nucleus": 10})


def test_one_channel_in_common_proves_nothing_unless_there_is_no_other(original: Dataset, copies: Dataset) -> None:
    one = same("protein")
    assert planted(find_duplicates([Picked(original, one), Picked(copies, one)])) >= {"darker", "jpeg"}
    with pytest.raises(ChannelError, match=r"Channels with limits that both have: protein") as caught:
        find_duplicates([Picked(original, one), copies])
    assert "compare the datasets separately" in caught.value.hint


@pytest.mark.parametrize("limits", ["14,12", "14,12,99", "protein", "protein=x", "=3", "a=1,b", "a=1,a=2"])
def test_limits_that_are_none_are_refused(cli: Cli, original: Dataset, tmp_path: Path, limits: str) -> None:
    refused = cli("duplicates", original.path, "--limits", limits, "--out", tmp_path / "p.csv")
    assert (refused.code, "CHANNEL=BITS" in refused.err) == (2, True)


def test_limits_may_name_channels(cli: Cli, original: Dataset, tmp_path: Path) -> None:
    call = ["duplicates", original.path, "--no-turns", "--out", tmp_path / "p.csv"]
    assert cli(*call, "--limits", "protein=12, nucleus=10").code == 0


@pytest.mark.parametrize("channels", [("protein",), ("protein", "er"), ("protein", "actin"), ("protein", "nucleus")])
def test_any_channels_are_compared(channels: tuple[str, ...], original: Dataset, tmp_path: Path) -> None:
    """One channel, or two of which at most one has a limit of its own."""
    planes = [CHANNELS.index({"actin": "microtubules"}.get(name, name)) for name in channels]
    images = original.read(np.arange(len(original)))[:, planes]
    images = np.concatenate([images, images[:2, :, ::-1]])
    images[5] = 0
    ids = [f"f{number}" for number in range(len(images))]
    dataset = dataset_from_arrays(images, out=tmp_path / "x.dataset", channels=channels, ids=ids)
    with pytest.warns(DatasetWarning, match=r"1 of 16 fields could not be compared.* f5 \(protein"):
        pairs = find_duplicates(dataset)
    copies = pairs.filter(pl.col("verdict") == "copy")
    assert sorted(copies.select("a", "b").rows()) == [("f0", "f14"), ("f1", "f15")]
    assert copies.select(pl.col(f"d_{name}").is_not_null().all() for name in channels).row(0) == (True,) * len(channels)
