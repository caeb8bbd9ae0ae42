"""Tuning: honest folds, resuming, pruning, and bad search spaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

import cytoloc as cl
from cytoloc.dataset.store import Dataset
from cytoloc.errors import RecipeError, SettingsError, TrainingError
from cytoloc.recipes.recipe import load_recipe
from cytoloc.training import tuning
from cytoloc.training.space import read_space
from tests.conftest import Cli

SMALL = {
    "image.size": 64,
    "model.backbone": "test_resnet",
    "model.weights": "none",
    "schedule.epochs": 1,
    "schedule.frozen_epochs": 0,
}
SPACE: dict[str, Any] = {
    "schedule": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    "model.dropout": [0.1, 0.5],
}


@pytest.fixture(scope="module")
def base() -> Any:
    return load_recipe("quick", overrides=SMALL)


@pytest.fixture(scope="module")
def folds(study: Dataset) -> pl.DataFrame:
    return cl.make_folds(study, k=3)


def options(**changes: Any) -> cl.TuneOptions:
    return cl.TuneOptions(train=cl.TrainOptions(device="cpu", report=lambda _line: None), **changes)


@pytest.mark.slow
def test_tuning_resumes_and_no_trial_sees_the_test_fold(
    study: Dataset, folds: pl.DataFrame, base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[set[str], int]] = []
    train: Callable[..., Any] = vars(tuning)["train"]

    def watched(recipe: Any, dataset: Any, table: pl.DataFrame, **more: Any) -> Any:
        used = table.filter(pl.col("fold").is_not_null())
        seen.append((set(used["id"]), more["fold"]))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return train(recipe, dataset, table, **more)

    monkeypatch.setattr(tuning, "train", watched)
    call: dict[str, Any] = {"space": SPACE, "out": tmp_path / "tuned", "options": options(trials=2)}
    with pytest.raises(KeyboardInterrupt):
        cl.tune_recipe(base, study, folds, **call)
    steps: list[tuple[int, int]] = []
    found = cl.tune_recipe(base, study, folds, progress=lambda done, total: steps.append((done, total)), **call)
    assert steps == [(2, 2)]
    trials, final = seen[:-2], seen[-2:]
    unseen = set(folds.filter(pl.col("fold") == 2)["id"])
    assert all(not ids & unseen and fold == 0 for ids, fold in trials)
    assert all(unseen <= ids and fold == 2 for ids, fold in final)
    assert found.trials.filter(pl.col("state") == "complete").height == 2
    assert set(found.values) == {"schedule.learning_rate", "model.dropout"}
    # Figures are those of the runs on the test fold.
    for name, value in (("tuned", found.tuned), ("untuned", found.untuned)):
        (folder,) = (tmp_path / "tuned" / "final" / name).iterdir()
        predictions = cl.read_predictions(folder / "predictions.parquet")
        truth = study.truth[[study.row(each) for each in predictions.ids]]
        present = truth.any(axis=0)
        expected = average_precision_score(truth[:, present], predictions.probabilities[:, present], average="macro")
        assert value == pytest.approx(expected)
    assert load_recipe(tmp_path / "tuned" / "best.toml") == found.recipe
    assert (tmp_path / "tuned" / "trials.png").stat().st_size > 5000
    # The runs of worse trials are removed.
    assert len(list((tmp_path / "tuned" / "trials").iterdir())) == 1
    with pytest.raises(SettingsError, match="another space"):
        cl.tune_recipe(base, study, folds, **call | {"space": {"model.dropout": [0.2, 0.3]}})


def test_a_hopeless_trial_is_stopped(study: Dataset, folds: pl.DataFrame, base: Any, tmp_path: Path) -> None:
    import optuna

    class Hopeless:
        number = 0
        reported: list[float] = []  # noqa: RUF012

        def report(self, value: float, _epoch: int) -> None:
            self.reported.append(value)

        def should_prune(self) -> bool:
            return True

    trial: Any = Hopeless()
    more = cl.TrainOptions(
        device="cpu",
        report=lambda _line: None,
        callbacks=[tuning._Pruning(trial)],
        metrics={"mean_average_precision": tuning.mean_average_precision},
    )
    with pytest.raises(optuna.TrialPruned):
        cl.train(base, study, folds, out=tmp_path / "runs", fold=0, options=more)
    assert len(trial.reported) == 1
    assert 0 < trial.reported[0] < 1


def test_no_finished_trial_is_an_error(
    study: Dataset, folds: pl.DataFrame, base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_more: Any) -> Any:
        raise TrainingError("The loss is NaN.")

    monkeypatch.setattr(tuning, "train", fail)
    with pytest.raises(TrainingError, match="None of 2 trials finished"):
        cl.tune_recipe(base, study, folds, space=SPACE, out=tmp_path / "tuned", options=options(trials=2))


@pytest.mark.parametrize(
    ("space", "error", "message"),
    [
        ({}, SettingsError, "no keys"),
        ({"schedule.rate": [1, 2]}, RecipeError, "rate"),
        ({"schedule.epochs": {"low": 1}}, SettingsError, "schedule.epochs"),
        ({"schedule.epochs": {"low": 5, "high": 2}}, SettingsError, "low must be less than high"),
        ({"schedule.learning_rate": {"low": 0.0, "high": 0.1, "log": True}}, SettingsError, "above 0"),
        ({"model.dropout": [0.1]}, SettingsError, "at least 2"),
        ({"model.dropout": [0.1, 2.0]}, RecipeError, "dropout"),
        ({"schedule.epochs": {"low": 1, "high": 2, "hi": 3}}, SettingsError, "schedule.epochs"),
    ],
)
def test_a_bad_space_is_refused(space: dict[str, Any], error: type[Exception], message: str, base: Any) -> None:
    with pytest.raises(error, match=message):
        read_space(space, base)


def test_bad_folds_and_options_are_refused(study: Dataset, folds: pl.DataFrame, base: Any, tmp_path: Path) -> None:
    call: dict[str, Any] = {"space": SPACE, "out": tmp_path / "tuned"}
    with pytest.raises(SettingsError, match="needs three"):
        cl.tune_recipe(base, study, cl.make_folds(study, k=2), **call)
    with pytest.raises(SettingsError, match="`fold` and `test_fold` are both 1"):
        cl.tune_recipe(base, study, folds, options=options(fold=1, test_fold=1), **call)
    with pytest.raises(SettingsError, match="`test_fold` is 7"):
        cl.tune_recipe(base, study, folds, options=options(test_fold=7), **call)
    with pytest.raises(SettingsError, match="`trials` is 0"):
        cl.TuneOptions(trials=0)


def test_the_command_says_what_it_found(
    cli: Cli, study: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tuning.Tuned(load_recipe("quick"), {"model.dropout": 0.25}, pl.DataFrame(), 0.61, 0.58)
    given: dict[str, Any] = {}

    def instead(*_arguments: Any, **more: Any) -> tuning.Tuned:
        given.update(more)
        return result

    monkeypatch.setattr(tuning, "tune_recipe", instead)
    (tmp_path / "space.toml").write_text('"model.dropout" = [0.1, 0.5]\n')
    (tmp_path / "folds.csv").write_text("id,group,fold\n")
    call = ["tune", "quick", study.path, "--folds", tmp_path / "folds.csv", "--space", tmp_path / "space.toml"]
    done = cli(*call, "--out", tmp_path / "out", "--trials", 3, "--no-prune")
    assert "model.dropout = 0.25" in done.out, done.err
    assert "0.610, untuned 0.580" in done.out
    assert (given["options"].trials, given["options"].prune) == (3, False)


def test_mean_average_precision_is_over_locations_that_occur() -> None:
    truth = np.array([[True, False], [False, False], [True, False]])
    probabilities = np.array([[0.9, 0.1], [0.5, 0.9], [0.6, 0.2]])
    assert tuning.mean_average_precision(probabilities, truth) == 1
    assert tuning.mean_average_precision(probabilities, np.zeros_like(truth)) == 0
