"""A whole study: what is wrong with it is wrong as it was asked for, and written down."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc import open_dataset
from cytoloc.errors import CytolocError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from cytoloc.simulate.plan import Design
from cytoloc.simulate.study import Flaws, simulate_study
from tests.conftest import Cli

DESIGN = Design(n_fields=50, seed=2, size=48)
FLAWS = Flaws(noise=0.2, duplicates=0.1, leaked=0.3, gain=0.6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "study"
    simulate_study(path, DESIGN, FLAWS)
    return path


def test_everything_is_there(whole: Path) -> None:
    files = {str(path.relative_to(whole)) for path in whole.rglob("*.csv")} | {each.name for each in whole.iterdir()}
    truth = {f"truth/{name}.csv" for name in ("train", "test", "label_noise", "duplicates", "leak", "wells")}
    assert files == truth | {
        "external-by-antibody.csv", "truth", "study.json", "train.dataset", "test.dataset", "external.dataset"
    }  # fmt: skip
    assert [len(open_dataset(whole / f"{name}.dataset")) for name in ("train", "external", "test")] == [50, 50, 19]


def test_wrong_labels_are_those_that_are_listed(whole: Path) -> None:
    dataset, true = open_dataset(whole / "train.dataset"), read_labels(whole / "truth" / "train.csv", LabelSet.hpa28())
    given = dict(zip(dataset.ids, map(tuple, dataset.fields["labels"]), strict=True))
    noise = pl.read_csv(whole / "truth" / "label_noise.csv", infer_schema=False)
    assert {name for name in true if true[name] != given[name]} == set(noise["Id"])
    assert 3 <= noise.height <= 18
    for name, was, now in noise.iter_rows():
        assert (was, now) == tuple(" ".join(map(str, each)) for each in (true[name], given[name]))
        assert len(was.split()) == len(now.split())


def test_missing_labels_are_only_missing(tmp_path: Path) -> None:
    simulate_study(tmp_path / "study", replace(DESIGN, n_fields=40), replace(FLAWS, noise=0.8, kind="missing"))
    noise = pl.read_csv(tmp_path / "study" / "truth" / "label_noise.csv", infer_schema=False)
    assert noise.height > 5
    assert all(set(now.split()) < set(was.split()) for _, was, now in noise.iter_rows())


def test_fields_of_a_well_have_the_labels_of_their_well(whole: Path) -> None:
    truth = read_labels(whole / "truth" / "test.csv", LabelSet.hpa28())
    wells = pl.read_csv(whole / "truth" / "wells.csv", infer_schema=False)
    assert wells.height > 2
    assert all(truth[a] == truth[b] for a, b in wells.iter_rows())


def test_sets_share_no_antibody_and_no_well(whole: Path) -> None:
    train, external = (open_dataset(whole / f"{name}.dataset").fields for name in ("train", "external"))
    for column in ("gene", "antibody", "plate"):
        assert not set(train[column]) & set(external[column])


def test_the_test_set_is_unlabeled_darker_and_from_larger_originals(whole: Path) -> None:
    train, test = (open_dataset(whole / f"{name}.dataset") for name in ("train", "test"))
    assert test.fields["labels"].null_count() == len(test)
    assert test.fields["well"].null_count() == len(test)
    leaked = pl.read_csv(whole / "truth/leak.csv")["b"].to_list()
    assert dict(test.fields.select("id", "original_px").iter_rows()) == {
        name: 48 if name in leaked else 72 for name in test.ids
    }
    assert test.read(range(len(test))).mean() < 0.9 * train.read(range(len(train))).mean()


def test_planted_copies_are_found(whole: Path, cli: Cli, tmp_path: Path) -> None:
    said = cli(
        "duplicates", whole / "train.dataset", whole / "external.dataset", whole / "test.dataset",
        "--out", tmp_path / "pairs.csv", "--limits", "20,20,20",
    )  # fmt: skip
    assert said.code == 0, said.err
    found = {frozenset(pair) for pair in pl.read_csv(tmp_path / "pairs.csv").select("a", "b").iter_rows()}
    planted = pl.concat(pl.read_csv(whole / "truth" / f"{name}.csv") for name in ("duplicates", "leak"))
    assert planted.height == 5 + 6
    hits = [frozenset((a, b)) in found for a, b, kind in planted.iter_rows() if kind != "shifted"]
    assert np.mean(hits) > 0.9
    leak = cli(
        "leak",
        tmp_path / "pairs.csv",
        "--labels",
        whole / "external.dataset",
        "--test",
        whole / "test.dataset",
        "--out",
        tmp_path / "leak.csv",
    )
    assert leak.code == 0, leak.err
    truth = read_labels(whole / "truth" / "test.csv", LabelSet.hpa28())
    assert all(truth[name] == labels for name, labels in read_labels(tmp_path / "leak.csv", LabelSet.hpa28()).items())


def test_labels_by_antibody_are_wrong_for_some_wells(whole: Path) -> None:
    external = open_dataset(whole / "external.dataset")
    by_antibody = read_labels(whole / "external-by-antibody.csv", LabelSet.hpa28())
    by_well = dict(zip(external.ids, map(tuple, external.fields["labels"]), strict=True))
    assert all(set(by_well[name]) <= set(labels) for name, labels in by_antibody.items())
    assert any(by_well[name] != labels for name, labels in by_antibody.items())


def test_a_study_is_not_drawn_over_another(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CytolocError, match="already exists"):
        simulate_study(whole, DESIGN, FLAWS)
    with pytest.raises(CytolocError, match="`noise` is 2"):
        simulate_study(tmp_path / "new", DESIGN, Flaws(noise=2))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_killed_study_goes_on_to_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    words = ["--fields", 50, "--seed", 2, "--size", 48, "--format", "study", "--noise", 0.2, "--duplicates", 0.1]
    words += ["--leaked", 0.3, "--gain", 0.6, "--out", tmp_path / "study"]
    call = [sys.executable, "-m", "cytoloc", "simulate", *map(str, words)]
    running = subprocess.Popen(call)
    while not (tmp_path / "study" / "train.dataset").exists():
        assert running.poll() is None
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert (tmp_path / "study" / "study.part.json").exists()
    subprocess.run(call, check=True)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert files == sorted(
        path.relative_to(tmp_path / "study") for path in (tmp_path / "study").rglob("*") if path.is_file()
    )
    for file in files:
        assert (tmp_path / "study" / file).read_bytes() == (whole / file).read_bytes(), file


def test_the_sheet_shows_every_location(cli: Cli, tmp_path: Path) -> None:
    said = cli("simulate", "--show", tmp_path / "sheet.png", "--size", 32)
    assert said.code == 0, said.err
    assert (tmp_path / "sheet.png").stat().st_size > 50_000
    assert cli("simulate", "--fields", 3).code == 2
