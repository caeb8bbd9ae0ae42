"""The user's own augmentation, loss, callbacks and metrics, and what a call of ``train`` must not be given."""

from __future__ import annotations

import json
import re
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from torch import Tensor

from cytoloc.curation.folds_file import write_folds
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ArgumentTypeError, OutputExistsError, RecipeError, SettingsError, TrainingError
from cytoloc.models.losses import focal_loss
from cytoloc.prediction_files import read_predictions
from cytoloc.training.options import TrainOptions
from cytoloc.training.run import Run, train
from tests.training.conftest import TINY, quiet, same, state_of, tiny, train_fold


def noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return float images with a little noise."""
    return images.float() + torch.rand(images.shape, generator=generator)


def dark(images: Tensor, _generator: torch.Generator) -> Tensor:
    return images // 2


def plain_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


def ranking(probabilities: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    assert [str(probabilities.dtype), str(truth.dtype)] == ["float32", "bool"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(average_precision_score(truth, probabilities, average="micro"))


def test_metrics_are_those_of_the_predictions(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    said: list[str] = []
    metrics = {"ranking": ranking, "highest": lambda probabilities, _truth: probabilities.max()}
    recipe = tiny("schedule.epochs=2")
    run = train_fold(recipe, study, folds, 1, out=tmp_path, metrics=metrics, report=said.append)
    log = pl.read_csv(run / "log.csv")
    assert log.columns[-3:] == ["seconds", "ranking", "highest"]
    predictions = read_predictions(run / "predictions.parquet")
    rows = [study.ids.index(name) for name in predictions.ids]
    # Both are of one view at the last epoch.
    expected = ranking(predictions.probabilities, study.truth[rows])
    assert log["ranking"][-1] == pytest.approx(expected, abs=1e-6)
    assert log["highest"][-1] == pytest.approx(predictions.probabilities.max(), abs=1e-6)
    assert f"ranking {log['ranking'][-1]:.3f}" in said[-1]
    plain = train_fold(recipe, study, folds, 1, out=tmp_path / "plain")
    assert same(state_of(run / "last.ckpt"), state_of(plain / "last.ckpt"))


def test_a_run_keeps_the_names_of_augmentation_and_loss_and_resumes_with_them(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    class Stop(lightning.Callback):
        def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            if trainer.current_epoch == 1:
                raise LookupError("mine")

    recipe, own = tiny("schedule.epochs=2"), {"augmentation": noisy, "loss": plain_loss}
    whole = train_fold(recipe, study, folds, 1, out=tmp_path / "whole", **own)
    assert json.loads((whole / "run.json").read_text())["custom"] == {
        "augmentation": f"{__name__}.noisy",
        "loss": f"{__name__}.plain_loss",
    }
    with pytest.raises(LookupError, match="mine"):
        train_fold(recipe, study, folds, 1, out=tmp_path, callbacks=[Stop()], **own)
    for other in ({**own, "augmentation": dark}, {**own, "loss": partial(focal_loss, gamma=1.0)}, {}):
        with pytest.raises(TrainingError, match=r"was started with (augmentation|loss)"):
            train_fold(recipe, study, folds, 1, out=tmp_path, resume=True, **other)
    run = train_fold(recipe, study, folds, 1, out=tmp_path, resume=True, **own)
    assert same(state_of(run / "last.ckpt"), state_of(whole / "last.ckpt"))
    for name, part in own.items():
        without = train_fold(recipe, study, folds, 1, out=tmp_path / name, **{name: part})
        assert not same(state_of(without / "last.ckpt"), state_of(whole / "last.ckpt"))


def test_an_augmentation_sees_the_images_of_the_recipe(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    seen: list[tuple[torch.dtype, torch.Size]] = []

    def look(images: Tensor, _generator: torch.Generator) -> Tensor:
        seen.append((images.dtype, images.shape))
        return images

    recipe = tiny("image.size=48", "image.field_size=64")
    run = train_fold(recipe, study, folds, 1, out=tmp_path, augmentation=look)
    assert set(seen) == {(torch.uint8, torch.Size((8, 4, 48, 48)))}
    plain = train_fold(recipe, study, folds, 1, out=tmp_path / "plain")
    assert same(state_of(run / "last.ckpt"), state_of(plain / "last.ckpt"))
    with pytest.raises(TrainingError, match=r"augmentation returned \(8, 4, 24, 48\) for images of shape"):
        train_fold(recipe, study, folds, 1, out=tmp_path / "b", augmentation=lambda images, _: images[:, :, ::2])


@pytest.mark.parametrize(
    ("loss", "found"), [(lambda logits, _: logits.sum(dim=0), r"shape \(28,\)"), (lambda *_: 0.5, "type float")]
)
def test_a_loss_that_is_no_scalar_is_refused(
    loss: Any, found: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=f"loss returned a value of {found}"):
        train_fold(tiny(), study, folds, 1, out=tmp_path, loss=loss)


class OddError(Exception):
    """An error that nobody else raises."""


@pytest.mark.parametrize(
    "error",
    [
        OddError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        PermissionError(13, "denied"),
        SystemExit(3),
    ],
)
@pytest.mark.parametrize("part", ["augmentation", "loss", "metrics", "callbacks"])
def test_an_error_in_the_users_code_is_raised_unchanged_and_the_run_resumes(
    part: str, error: BaseException, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    calls = 0

    def fail(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == {"metrics": 2, "callbacks": 2}.get(part, 4):
            raise error
        return {"augmentation": words[0], "loss": None, "metrics": 0.5, "callbacks": None}[part]

    def failing_loss(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.requires_grad:
            fail(logits)
        return plain_loss(logits, targets)

    class Failing(lightning.Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            fail(trainer)

    own: dict[str, Any] = {"augmentation": fail, "loss": failing_loss, "metrics": {"m": fail}, "callbacks": [Failing()]}
    recipe = tiny("schedule.epochs=2")
    with pytest.raises(type(error)) as caught:
        train_fold(recipe, study, folds, 1, out=tmp_path, **{part: own[part]})
    assert caught.value is error
    run = tmp_path / "quick-fold1"
    before = (run / "last.ckpt").read_bytes()
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 0
    train_fold(recipe, study, folds, 1, out=tmp_path, resume=True, **{part: own[part]})
    assert (run / "last.ckpt").read_bytes() != before
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1, 2]
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "`devices` is 0"),
        ({"nodes": "2"}, "`nodes` is '2'"),
        ({"loss": "focal"}, "`loss` is 'focal', which is not a function"),
        ({"augmentation": 1}, "`augmentation` is 1"),
        ({"metrics": [ranking]}, "`metrics` must be Mapping, not list"),
        ({"metrics": {"f1": 1}}, r"`metrics\['f1'\]` is 1"),
        ({"metrics": {"val_loss": ranking}}, "`metrics` has the invalid name 'val_loss'"),
        ({"metrics": {"a b": ranking}}, "`metrics` has the invalid name 'a b'"),
        ({"callbacks": [ranking]}, "`callbacks` contains <function"),
        ({"callbacks": lightning.Callback()}, "`callbacks` must be list or tuple, not Callback"),
        ({"report": None}, "`report` is None, which is not a function"),
        ({"mlflow": 3}, "`mlflow` must be str or Path or NoneType, not int"),
        ({"resume": "yes"}, "`resume` must be bool, not str"),
    ],
)
def test_options_of_the_wrong_type_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        TrainOptions(**options)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"recipe": 3}, ArgumentTypeError, "`recipe` must be"),
        ({"recipe": []}, SettingsError, "`recipe` is empty"),
        ({"recipe": ["quick", 3]}, ArgumentTypeError, "`recipe` must be"),
        ({"recipe": ["quick", "quick"]}, SettingsError, "contains two recipes with the same name"),
        ({"recipe": "quik"}, RecipeError, "no recipe 'quik'. Did you mean quick"),
        ({"dataset": 3}, SettingsError, "`dataset` must be a dataset or its path, not int"),
        ({"folds": {"id": []}}, SettingsError, "`folds` must be a polars DataFrame or the path of a CSV, not dict"),
        ({"folds": pl.DataFrame({"id": ["a"]})}, SettingsError, "`folds` has the columns id"),
        ({"folds": pl.DataFrame({"id": ["a"], "fold": ["0"]})}, SettingsError, "`folds` has the columns id, fold"),
        ({"out": None}, SettingsError, "`out` must be the path of a folder, not NoneType"),
        ({"fold": "one"}, SettingsError, "`fold` is 'one'"),
        ({"fold": [0, 0]}, SettingsError, r"`fold` is \[0, 0\]"),
        ({"fold": True}, SettingsError, "`fold` is True"),
        ({"fold": 7}, TrainingError, "The folds have no fold 7; they are numbered 0, 1, 2"),
        ({"overrides": "schedule.epochs=3"}, ArgumentTypeError, "`overrides` must be"),
        ({"overrides": {"schedule.epoch": 3}}, RecipeError, "Did you mean schedule.epochs"),
        ({"options": {"resume": True}}, SettingsError, "`options` must be TrainOptions, not dict"),
    ],
)
def test_wrong_arguments_are_refused_by_name(
    given: dict[str, Any], kind: type[Exception], message: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"recipe": "quick", "dataset": study, "folds": folds, "out": tmp_path / "runs"}
    with pytest.raises(kind, match=message):
        train(**{"overrides": TINY, **usual, **given})
    assert not (tmp_path / "runs").exists()


def test_training_by_names_and_paths_gives_runs(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    write_folds(folds, tmp_path / "folds.csv")
    settings: dict[str, Any] = dict(line.split("=", 1) for line in TINY)
    overrides = {key: int(value) if value.isdecimal() else value for key, value in settings.items()}
    out = tmp_path / "runs"
    options = TrainOptions(report=quiet)
    runs = train(
        "quick",
        str(study.path),
        tmp_path / "folds.csv",
        out=str(out),
        fold=[2, 0],
        overrides=overrides,
        options=options,
    )
    assert runs == (Run(out / "quick-fold2", "quick", 2), Run(out / "quick-fold0", "quick", 0))
    assert repr(runs[0]) == f"Run('{out}/quick-fold2')"
    assert runs[0].log()["epoch"].to_list() == [1]
    assert set(runs[0].predictions().ids) == set(folds.filter(pl.col("fold") == 2)["id"])
    with pytest.raises(OutputExistsError):
        train(tiny(), study, folds, out=out, fold=1 - 1, options=options)
    again = train([tiny()], study, folds, out=out, options=TrainOptions(resume=True, report=quiet))
    assert [run.fold for run in again] == [0, 1, 2]
    changed = train(tiny(), study, folds, out=tmp_path / "b", fold=0, overrides=["seed=3"], options=options)
    assert "seed = 3" in (changed[0].folder / "recipe.toml").read_text()


def test_the_example_in_the_documentation_runs(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    snippet = next(block for block in re.findall("```python\n(.*?)```", text, re.DOTALL) if "def noise" in block)
    names: dict[str, Any] = {"TrainOptions": partial(TrainOptions, report=quiet)}
    exec(snippet, names)
    (run,) = train(tiny(), study, folds, fold=0, out=tmp_path, options=names["options"])
    assert run.log()["average_precision"].null_count() == 0
