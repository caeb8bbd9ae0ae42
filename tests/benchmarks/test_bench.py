from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.adopted import ADOPTED, AUTHORS, bench_adopted
from benchmarks.decide import LOOP, WAYS, compare_on_halves, has_best_f1, read_folder
from benchmarks.duplicates import PLANTED, competition_hashes
from benchmarks.rounds import in_separate_process, in_turns
from cytoloc.decide.thresholds import grid_thresholds
from tests.conftest import Cli, images_of
from tests.decide.cases import study_of


def test_every_way_works_in_every_round_and_the_first_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([float(tick) for tick in (0, 9, 9, 90, 100, 101, 101, 103, 200, 204, 204, 205)])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    calls: list[str] = []

    def work(name: str) -> int:
        calls.append(name)
        return 8

    ways = {name: partial(work, name) for name in ("peer", "ours")}
    peer, ours = in_turns(ways, against="peer", rounds=2)
    assert calls == ["peer", "ours"] * 3
    assert (peer.rate, ours.rate) == (5.0, 6.0)  # medians of 8 / 1 and 8 / 4, of 8 / 2 and 8 / 1
    assert (peer.ratio, ours.ratio, ours.least, ours.most) == (1.0, 2.25, 0.5, 4.0)


@pytest.mark.slow
def test_the_dataset_is_measured_against_files(
    tmp_path: Path, bench: Cli, measured_once: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_once("dataset")
    monkeypatch.setattr("benchmarks.plates.CAMERA_PX", 96)
    monkeypatch.setattr("benchmarks.plates.PACKED_PX", 64)
    images, tmp_path = images_of(tmp_path / "images"), tmp_path / "scratch"
    tmp_path.mkdir()
    call = ["dataset", "--images", images, "--fields", 64, "--size", 48, "--rounds", 1, "--scratch", tmp_path]
    measured = json.loads(bench(*call, "--json").out)["dataset"]
    assert [len(measured[kind]) for kind in ("uint8", "float32", "importing", "plate")] == [4, 4, 3, 2]
    assert all(way["rate"] > 0 for kind in ("uint8", "float32", "importing", "plate") for way in measured[kind])
    assert 0 < measured["disk"] < 1.2
    assert measured["import_mb"] > 20
    assert list(tmp_path.iterdir()) == []
    text = bench(*call).out
    assert "four cv2.imread" in text
    assert "of raw pixels" in text


@pytest.mark.slow
def test_duplicates_are_measured_against_imagehash(
    tmp_path: Path, bench: Cli, measured_once: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_once("duplicates")
    for name in ("TEST_FIELDS", "EXTERNAL_FIELDS"):
        monkeypatch.setattr(f"benchmarks.duplicates.{name}", PLANTED + 500)
    call = ["duplicates", "--size", 64, "--rounds", 1, "--scratch", tmp_path]
    measured = json.loads(bench(*call, "--json").out)["duplicates"]
    assert (measured["fields"], measured["found"]) == (64, 1.0)
    assert measured["close"] >= 0.95
    assert [way["name"] for way in measured["hashing"]] == ["ImageHash", "cytoloc"]
    assert "of simulated copies found" in bench(*call).out


def test_planted_copies_are_within_the_limits() -> None:
    test, external = competition_hashes()
    off = np.bitwise_count(test.bits[:PLANTED] ^ external.bits[:PLANTED])
    assert off.max(axis=0).tolist() == [14, 12, 10, 0]
    assert off[:, :3].min() == 0


def test_work_in_a_process_of_its_own_comes_back() -> None:
    assert in_separate_process(divmod, 17, 5) == (3, 2)


def predictions(folder: Path, fields: int) -> Path:
    """Write members' probabilities and labels as `bench decide` reads them."""
    members, truth = study_of(0, fields, members=5)
    for name, values in members.items():
        np.savez(folder / f"{name}.npz", probabilities=values.astype(np.float32))
    rows = [f"f{number}," + " ".join(map(str, row.nonzero()[0])) for number, row in enumerate(truth)]
    (folder / "labels.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    return folder


def test_ways_are_fitted_on_one_half_and_judged_on_the_other(tmp_path: Path) -> None:
    members, truth = read_folder(predictions(tmp_path, 90))
    assert list(members) == ["m0", "m1", "m2", "m3", "m4"]
    seen: list[int] = []

    def oracle(here: Any, known: Any, there: Any) -> Any:
        seen.append(len(known))
        rows = {values.tobytes(): row for row, values in enumerate(members["m0"])}
        unseen = [rows[values.tobytes()] for values in there["m0"]]
        assert not set(unseen) & {rows[values.tobytes()] for values in here["m0"]}
        return truth[unseen]

    def nothing(_here: Any, _known: Any, there: Any) -> Any:
        return np.zeros((len(there["m0"]), 28), bool)

    peer, best = compare_on_halves(members, truth, {"nothing": nothing, "oracle": oracle}, splits=3)
    assert seen == [45] * 6
    assert (peer.macro_f1, peer.wins, best.wins) == (0, 0, 1)
    assert best.macro_f1 == best.gain > 0.8


def test_a_better_value_of_the_grid_is_found_in_any_class() -> None:
    members, truth = study_of(1, 200)
    probabilities = np.round(members["m0"], 2)  # Rounded, so that probabilities meet the grid.
    best = grid_thresholds(probabilities, truth)
    assert has_best_f1(best, probabilities, truth)
    for i in (0, 13, 27):
        for worse in (0.0, 0.999):
            thresholds = best.copy()
            thresholds[i] = worse
            assert not has_best_f1(thresholds, probabilities, truth)


@pytest.mark.slow
@pytest.mark.usefixtures("short_steps")
def test_decisions_are_measured_against_the_starting_system(
    tmp_path: Path, bench: Cli, measured_once: Callable[[str], None]
) -> None:
    measured_once("decide")
    call = ["decide", "--predictions", predictions(tmp_path, 120), "--splits", 1, "--rounds", 1]
    call += ["--large", 2000, "--training-fields", 150]
    measured = json.loads(bench(*call, "--json").out)["decide"]
    assert [row["name"] for row in measured["halves"]] == list(WAYS)
    assert measured["same_f1"] is True
    assert measured["grid"][0]["name"] == LOOP
    assert measured["grid"][1]["ratio"] > 1
    assert measured["exact_mb"] > 20
    assert measured["auto_s"] > 0
    text = bench(*call).out
    assert "cytoloc, method auto" in text
    assert "equal, and the best on the grid" in text
    refused = bench("decide")
    assert (refused.code, "--predictions FOLDER" in refused.err) == (2, True)


@pytest.mark.slow
def test_inference_is_measured_against_plain_pytorch(
    bench: Cli, measured_once: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.inference.BACKBONES", ("resnet10t",))
    monkeypatch.setattr("benchmarks.inference.FIELDS", 8)
    monkeypatch.setattr("benchmarks.inference.PROCESSES", 1)
    measured_once("inference")
    call = ["inference", "--size", 64, "--rounds", 1]
    measured = json.loads(bench(*call, "--json").out)["inference"]
    (engines,), (whole,) = measured["engines"].values(), measured["whole"].values()
    assert [way["name"].rpartition(" ")[2] for way in engines] == ["eager", "torch", "onnx", "openvino", "int8"]
    assert len(whole) == 4
    assert all(way["rate"] > 0 for way in (*engines, *whole))
    assert "from import to the first prediction" in bench(*call).out


@pytest.mark.slow
def test_an_adopted_network_is_measured_against_that_of_its_authors() -> None:
    # It fails if the probabilities differ between the networks, or do not differ between the fields.
    assert [way.name for way in bench_adopted("plain", fields=2, rounds=1)] == [AUTHORS, ADOPTED]
