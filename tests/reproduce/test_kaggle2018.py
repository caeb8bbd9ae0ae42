"""The silver-medal solution on a tiny simulated competition: the whole way, resuming, and bad input."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

import cytoloc as cl
from cytoloc.recipes.recipe import published_scores
from cytoloc.reproduce import kaggle2018, options
from cytoloc.reproduce.kaggle2018 import plan_kaggle2018, random_folds, reproduce_kaggle2018
from cytoloc.reproduce.options import ReproduceOptions
from cytoloc.reproduce.steps import Step, forward_flops, run_steps
from tests.conftest import Cli

# Small simulated images are often flagged, which imports note.
pytestmark = pytest.mark.filterwarnings("ignore::cytoloc.errors.DatasetWarning")

SMALLEST = {"model.backbone": "test_resnet", "model.weights": "none", "schedule.epochs": 1, "schedule.frozen_epochs": 0}


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "competition"
    cl.simulate_competition(
        path, cl.Design(n_fields=45, seed=3, size=64, evenness=0.5), cl.Flaws(leaked=0.2, duplicates=0.1)
    )
    return path


@pytest.fixture
def few_models(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Leave two of the ten models, which are the members of the ensemble."""
    names = ("densenet121-512", "resnet50-256")
    every = published_scores()
    for module in (kaggle2018, options):
        monkeypatch.setattr(module, "published_scores", lambda: {name: every[name] for name in names})
    monkeypatch.setattr(kaggle2018, "MEMBERS", names)
    return names


def tiny(competition: Path, **changes: Any) -> ReproduceOptions:
    usual: dict[str, Any] = {
        "external": competition / "external",
        "test_labels": competition / "truth" / "test.csv",
        "scale": "tiny",
        "overrides": SMALLEST,
        "report": lambda _line: None,
    }
    return ReproduceOptions(**usual | changes)


def locations_of(path: Path, column: str) -> dict[str, set[int]]:
    rows = pl.read_csv(path, schema_overrides={column: pl.String}).select("Id", column).iter_rows()
    return {name: {int(word) for word in (text or "").split()} for name, text in rows}


def as_matrix(locations: dict[str, set[int]], order: list[str]) -> NDArray[np.bool_]:
    return np.array([[number in locations[name] for number in range(28)] for name in order])


def test_a_competition_is_simulated_in_the_form_of_the_real_one(competition: Path) -> None:
    train, order = (pl.read_csv(competition / name) for name in ("train.csv", "sample_submission.csv"))
    assert train.columns == ["Id", "Target"]
    assert (train.height, order.height) == (45, 17)
    for name, ids in (("train", train["Id"]), ("test", order["Id"])):
        colors = ("red", "green", "blue", "yellow")
        assert {path.name for path in (competition / name).iterdir()} == {f"{i}_{c}.png" for i in ids for c in colors}
    truth = pl.read_csv(competition / "truth" / "test.csv")
    assert truth["Id"].to_list() == order["Id"].to_list()
    external = pl.read_csv(competition / "external" / "labels.csv")
    assert len(list((competition / "external" / "images").glob("*.jpg"))) == 4 * external.height == 4 * 45
    by_antibody = pl.read_csv(competition / "external" / "labels-by-antibody.csv")
    pairs = zip(external["Target"].cast(str), by_antibody["Target"].cast(str), strict=True)
    assert all(set(well.split()) <= set(antibody.split()) for well, antibody in pairs)


@pytest.mark.slow
def test_the_whole_way_resumes_after_a_stop(
    competition: Path, few_models: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stopped = pytest.MonkeyPatch()

    def stop(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    stopped.setattr(kaggle2018, "load", stop)
    with pytest.raises(KeyboardInterrupt):
        reproduce_kaggle2018(competition, out=out, options=tiny(competition))
    stopped.undo()
    assert not (out / "results.json").exists()
    before = (out / "runs" / few_models[0] / f"{few_models[0]}-fold0" / "last.ckpt").stat().st_mtime_ns
    lines: list[str] = []
    table = reproduce_kaggle2018(competition, out=out, options=tiny(competition, report=lines.append))
    assert (out / "runs" / few_models[0] / f"{few_models[0]}-fold0" / "last.ckpt").stat().st_mtime_ns == before
    assert any(line.endswith(f"train {few_models[0]}: done already") for line in lines)

    order = pl.read_csv(competition / "sample_submission.csv")["Id"].to_list()
    names = [*few_models, "ensemble", "final"]
    assert table["name"].to_list() == names
    truth = locations_of(competition / "truth" / "test.csv", "Target")
    for name, in_sample, cross_fitted, test in table.iter_rows():
        predicted = locations_of(out / "submissions" / f"{name}.csv", "Predicted")
        assert list(predicted) == order
        expected = f1_score(as_matrix(truth, order), as_matrix(predicted, order), average="macro", zero_division=0)
        assert test == pytest.approx(expected)
        assert 0 <= cross_fitted <= in_sample <= 1
    # The final submission has no blank field, and at most five locations except for leaked fields.
    final = pl.read_csv(out / "submissions" / "final.csv", schema_overrides={"Predicted": pl.String})
    leaked = pl.read_csv(out / "leak.csv", schema_overrides={"Target": pl.String})
    assert leaked.height > 0
    known = dict(leaked.select("Id", "Target").iter_rows())
    for field, predicted_text in final.iter_rows():
        assert predicted_text
        if field in known:
            assert predicted_text == known[field]
        else:
            assert len(predicted_text.split()) <= 5
    text = (out / "tables.md").read_text()
    assert "| densenet121-512 + resnet50-256" in text
    assert "published" not in text.split("All values")[0]
    assert "best checkpoint was chosen on the same validation fold" in text
    # The same folders by other paths are the same settings.
    monkeypatch.chdir(competition)
    plain = tiny(competition, external="external", test_labels="truth/test.csv")
    assert reproduce_kaggle2018(".", out=out, options=plain).equals(table)
    # Another setting in the same folder is refused, and the labels of the test fields may come later.
    with pytest.raises(cl.CytolocError, match="with other settings: recipes"):
        reproduce_kaggle2018(competition, out=out, options=tiny(competition, overrides={}))
    again = reproduce_kaggle2018(competition, out=out, options=tiny(competition, test_labels=None))
    assert again["test"].null_count() == len(names)


@pytest.mark.slow
@pytest.mark.usefixtures("short_steps")
def test_the_strong_variant_takes_the_same_way(competition: Path, tmp_path: Path) -> None:
    strong = tiny(competition, strong=True, fold=0, baseline_split=True, external=None)
    table = reproduce_kaggle2018(competition, out=tmp_path / "out", options=strong)
    assert table["name"].to_list() == ["strong-512", "final"]
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "final: repair predictions with no location or too many" in text
    assert "leak" not in text
    assert not (tmp_path / "out" / "leak.csv").exists()


def test_an_import_that_was_stopped_among_the_external_images_continues(
    competition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaggle2018, "ImportOptions", partial(cl.ImportOptions, segment_bytes=1))
    out, calls = tmp_path / "out", 0

    def stop(_what: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 45 + 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce_kaggle2018(competition, out=out, options=tiny(competition, progress=stop))
    first = kaggle2018.Reproduction.of(competition, out=out, options=tiny(competition))
    assert first.finished_imports("train", 64) == 1
    first.import_images("train", 64)
    assert first.is_imported("train", 64)
    assert len(first.dataset("train", 64)) == 90


def test_a_test_field_that_cannot_be_read_stops_before_training(competition: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(competition, data)
    damaged = next((data / "test").glob("*_green.png"))
    damaged.write_bytes(damaged.read_bytes()[:200])
    found = kaggle2018.Reproduction.of(data, out=tmp_path / "out", options=tiny(data))
    (tmp_path / "out").mkdir()
    for _ in range(2):
        with pytest.raises(cl.CytolocError, match="1 test fields cannot be read") as refused:
            found.import_images("test", 64)
        assert not found.is_imported("test", 64)
    assert "remove" in refused.value.hint


def test_a_competition_without_a_leak_is_no_error(tmp_path: Path) -> None:
    competition = tmp_path / "competition"
    cl.simulate_competition(competition, cl.Design(n_fields=12, seed=3, size=64), cl.Flaws(leaked=0, duplicates=0.3))
    found = kaggle2018.Reproduction.of(competition, out=tmp_path / "out", options=tiny(competition))
    (tmp_path / "out").mkdir()
    for name in ("train", "test"):
        found.import_images(name, 64)
    found.find_pairs()
    assert pl.read_csv(tmp_path / "out" / "pairs.csv").height > 0
    found.find_leaked()
    assert pl.read_csv(tmp_path / "out" / "leak.csv").height == 0


def test_the_original_split_is_random() -> None:
    folds = random_folds([f"f{number}" for number in range(23)], k=5)
    assert sorted(folds["fold"].value_counts()["count"]) == [4, 4, 5, 5, 5]
    assert folds["fold"].to_list() != [number % 5 for number in range(23)]
    assert folds["group"].n_unique() == 23


def test_the_plan_has_all_steps_with_their_cost(cli: Cli, competition: Path) -> None:
    planned = plan_kaggle2018()
    names = [step.name for step in planned]
    assert sum(name.startswith("train ") for name in names) == 10
    assert not any("leak" in name and "find" in name for name in names)
    images = next(step for step in planned if step.name == "import the training fields at 512 px")
    assert 0.4 < images.disk_bytes / (31_072 * 4 * 512**2) < 0.8
    # ResNet-18 needs 1.8 x 10^9 multiplications and additions for 3 x 224 x 224 pixels (He et al. 2016, table 1).
    assert forward_flops("resnet18.tv_in1k", 224) == pytest.approx(2 * 1.8e9, rel=0.15)
    shown = cli("reproduce", "kaggle2018", "--data", competition, "--external", competition / "external", "--plan")
    assert shown.code == 0
    assert "find leaked test fields" in shown.out
    assert "all steps" in shown.out


def test_a_full_disk_is_said_before_anything_begins(tmp_path: Path) -> None:
    done: list[str] = []
    step = Step(
        name="train",
        output=tmp_path / "runs",
        run=lambda: done.append("train"),
        done=lambda: False,
        disk_bytes=10**18,
    )
    with pytest.raises(cl.CytolocError, match=r"needs about 1100000000\.0 GB of disk space .* are free"):
        run_steps([step], report=done.append)
    assert not done


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("train.csv", "lacks train.csv"),
        ("sample_submission.csv", "lacks sample_submission.csv"),
        ("test", "test does not exist"),
        ("image", r"has all images of 16 of the 17 fields in sample_submission\.csv"),
        ("labels", "have no labels"),
        ("other labels", "None of the external images"),
    ],
)
def test_incomplete_files_are_refused_before_any_work(
    competition: Path, tmp_path: Path, broken: str, message: str
) -> None:
    data, external = tmp_path / "data", tmp_path / "data" / "external"
    shutil.copytree(competition, data)
    if broken == "image":
        next((data / "test").glob("*_yellow.png")).unlink()
    elif broken == "labels":
        (external / "labels.csv").unlink()
    elif broken == "other labels":
        (external / "labels.csv").write_text("Id,Target\n1_2_A1_1,0\n")
    elif broken == "test":
        shutil.rmtree(data / "test")
    else:
        (data / broken).unlink()
    with pytest.raises(cl.CytolocError, match=message):
        reproduce_kaggle2018(data, out=tmp_path / "out", options=tiny(data))
    assert not (tmp_path / "out").exists()


def test_other_folders_and_options_are_refused(cli: Cli, competition: Path, tmp_path: Path) -> None:
    refused = cli("reproduce", "kaggle2018", "--data", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert refused.code == 1
    assert "nowhere does not exist" in refused.err
    assert "kaggle competitions download" in refused.err
    assert cli("reproduce", "kaggle2018", "--out", tmp_path / "out").code == 2
    assert cli("reproduce", "kaggle2018", "--plan", "--fold", "7").code == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(cl.CytolocError, match="holds something else"):
        reproduce_kaggle2018(competition, out=tmp_path / "full", options=tiny(competition))
    with pytest.raises(cl.CytolocError, match="changes the names of recipes"):
        plan_kaggle2018(options=ReproduceOptions(overrides=["name=x"]))
    with pytest.raises(cl.CytolocError, match="given without `data`"):
        plan_kaggle2018(options=ReproduceOptions(external="v18"))
    with pytest.raises(cl.CytolocError, match=r"nope\.csv does not exist"):
        plan_kaggle2018(competition, options=ReproduceOptions(test_labels="nope.csv"))
    with pytest.raises(cl.CytolocError, match="`device` has the unknown value 'gpu'"):
        ReproduceOptions(device="gpu")  # type: ignore[arg-type]
    with pytest.raises(cl.CytolocError, match="`external_labels` is given without `external`"):
        plan_kaggle2018(competition, options=ReproduceOptions(external_labels="labels.csv"))
