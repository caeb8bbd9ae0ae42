"""What recipes may ask for, through the real trainer on small networks."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cytoloc.dataset.store import Dataset
from cytoloc.errors import FormatError, RecipeError, TrainingError, WeightsError
from cytoloc.models.backbones import create_backbone
from cytoloc.predict.bundle import write_bundle
from cytoloc.predict.loading import load
from cytoloc.predict.runs import load_network
from cytoloc.prediction_files import read_predictions
from cytoloc.recipe import Recipe, load_recipe, recipe_names
from cytoloc.training.module import Learner
from cytoloc.training.run import check_run, train_fold
from cytoloc.training.schedule import rate_factor
from tests.training.conftest import power_cut, quiet, state_of

TINY = [
    "image.size=64",
    "image.field_size=0",
    "model.backbone=test_resnet",
    "model.weights=none",
    "select.tta=1",
    "schedule.batch_size=8",
    "schedule.frozen_epochs=0",
    "schedule.epochs=1",
]


def tiny(*overrides: str, base: str = "quick") -> Recipe:
    return load_recipe(base, overrides=[*TINY, *overrides])


def network_of(path: Path) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("network."): value for name, value in state_of(path).items() if name.startswith("network.")
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_shipped_recipe_trains_a_step(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    names = recipe_names()
    assert len(names) == 16
    few = folds.with_columns(pl.when(pl.col("fold") < 2).then("fold"))
    for name in names:
        recipe = load_recipe(name)
        small = ["schedule.cycles=[1.0]", "schedule.patience=0", "schedule.swa_epochs=1", "schedule.accumulate=1"]
        # Larger fields stay larger; the recipes' own networks are built in tests/models.
        small += ["image.size=48", "image.field_size=64"] if recipe.image.field_size else []
        run = train_fold(tiny(*small, base=name), study, few, 0, out=tmp_path, report=quiet)
        assert run.name == f"{name}-fold0"
        assert len(read_predictions(run / "predictions.parquet")) > 0


EVERYTHING = [
    "image.progressive=[32]",
    "model.head=multi-stage",
    "loss.arcface=0.1",
    "loss.symmetric_lovasz=0.5",
    "loss.macro_f1=0.5",
    "loss.asymmetric=0.1",
    "loss.symmetric_focal=0.1",
    "loss.hard_cross_entropy=0.1",
    "sampling.order=balanced",
    "sampling.mu=0.4",
    "sampling.oversample={hpa28 = {25 = 2}}",
    "augment.mixup=0.4",
    "augment.rotate_degrees=20",
    "augment.tiles=0.5",
    "augment.lighting=0.1",
    "schedule.epochs=2",
    "schedule.cycles=[1.0, 0.5]",
    "schedule.patience=2",
    "schedule.accumulate=2",
    "schedule.clip=1.0",
    "schedule.momentum=[0.95, 0.85]",
    "schedule.ema=0.9",
    "schedule.swa_epochs=2",
    "select.weights=ema",
]


def test_a_run_that_uses_everything_resumes_bitwise(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    whole = train_fold(tiny(*EVERYTHING), study, folds, 1, out=tmp_path / "whole", report=quiet)
    with power_cut(3):
        train_fold(tiny(*EVERYTHING), study, folds, 1, out=tmp_path, report=quiet)
    resumed = train_fold(tiny(*EVERYTHING), study, folds, 1, out=tmp_path, resume=True, report=quiet)

    assert {path.name for path in resumed.glob("*.ckpt")} == {
        "best.ckpt",
        "best-cycle1.ckpt",
        "best-cycle2.ckpt",
        "last.ckpt",
    }
    for name in ("last.ckpt", "best-cycle1.ckpt", "best-cycle2.ckpt", "best.ckpt"):
        one, other = (torch.load(run / name, weights_only=True) for run in (whole, resumed))
        assert one["epoch"] == other["epoch"]
        assert same(one["state_dict"], other["state_dict"]), name
        assert same(one["averages"]["ema"], other["averages"]["ema"]), name
        assert same(one["averages"]["swa"] or {}, other["averages"]["swa"] or {}), name
    assert torch.load(whole / "last.ckpt", weights_only=True)["averages"]["steps"] == 4 * 2
    np.testing.assert_array_equal(
        read_predictions(resumed / "predictions.parquet").probabilities,
        read_predictions(whole / "predictions.parquet").probabilities,
    )


def test_the_weights_that_a_recipe_selects_are_those_that_it_names(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[dict[str, torch.Tensor]] = []
    kept = Learner.on_train_epoch_end

    def keep(learner: Learner) -> None:
        kept(learner)
        ends.append({name: value.clone() for name, value in learner.network.state_dict().items()})

    monkeypatch.setattr(Learner, "on_train_epoch_end", keep)
    settings = ["schedule.epochs=3", "schedule.swa_epochs=2", "schedule.ema=0.5"]
    recipe = tiny(*settings, "select.weights=swa")
    run = train_fold(recipe, study, folds, 1, out=tmp_path, report=quiet)
    mean = load_network(run / "last.ckpt", recipe, locations=28).state_dict()
    for name, value in mean.items():
        expected = (ends[1][name] + ends[2][name]) / 2 if value.is_floating_point() else ends[2][name]
        assert torch.allclose(value, expected, atol=1e-6), name
    plain = load_network(run / "last.ckpt", tiny(*settings), locations=28).state_dict()
    moving = load_network(run / "last.ckpt", tiny(*settings, "select.weights=ema"), locations=28).state_dict()
    assert same(plain, ends[2])
    assert not same(moving, plain)
    assert same(load(run).networks[0].state_dict(), mean)


@pytest.mark.parametrize("weights", ["plain", "ema", "swa"])
def test_an_epoch_is_measured_by_the_weights_that_are_used(
    weights: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, torch.Tensor]] = []
    own: list[dict[str, torch.Tensor]] = []
    step = Learner.validation_step

    def keep(learner: Learner, batch: Any, index: int) -> None:
        measured.append({name: value.clone() for name, value in learner.network.state_dict().items()})
        step(learner, batch, index)

    monkeypatch.setattr(Learner, "validation_step", keep)
    monkeypatch.setattr(
        Learner,
        "on_train_epoch_end",
        lambda learner: own.append({name: value.clone() for name, value in learner.network.state_dict().items()}),
    )
    settings = ["schedule.epochs=3", "schedule.swa_epochs=2", "schedule.ema=0.5", f"select.weights={weights}"]
    run = train_fold(tiny(*settings), study, folds, 1, out=tmp_path, report=quiet)
    batches = len(measured) // 3
    assert same(measured[-1], load(run).networks[0].state_dict())
    assert same(measured[-1], own[2]) == (weights == "plain")
    # Before its first epoch there is no mean.
    assert same(measured[batches - 1], own[0]) == (weights != "ema")


def test_a_copied_run_goes_on_with_its_best_epoch(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny("schedule.cycles=[1.0, 1.0]", "schedule.epochs=2")
    stop_in(3, recipe, study, folds, tmp_path / "a", losses=[0.5, 0.4, 0.9, 0.8])
    (tmp_path / "a").rename(tmp_path / "b")
    run = run_with_losses([0.5, 0.4, 0.9, 0.8], recipe, study, folds, tmp_path / "b", [], resume=True)
    epochs = {path.name: torch.load(path, weights_only=True)["epoch"] for path in run.glob("*.ckpt")}
    assert epochs == {"best.ckpt": 1, "best-cycle1.ckpt": 1, "best-cycle2.ckpt": 3, "last.ckpt": 3}


def test_a_run_goes_on_without_its_first_weights(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "first.pt"
    torch.save(create_backbone("test_resnet", in_channels=4).state_dict(), path)
    recipe = tiny(f"model.weights=file:{path}", "schedule.epochs=2")
    stop_in(1, recipe, study, folds, tmp_path)
    whole = train_fold(recipe, study, folds, 1, out=tmp_path / "whole", report=quiet)
    path.unlink()
    check_run(recipe, study, folds, 1, out=tmp_path, resume=True)
    run = train_fold(recipe, study, folds, 1, out=tmp_path, resume=True, report=quiet)
    assert same(network_of(run / "last.ckpt"), network_of(whole / "last.ckpt"))


def test_a_damaged_checkpoint_is_said(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny("schedule.epochs=2")
    stop_in(1, recipe, study, folds, tmp_path)
    last = tmp_path / "quick-fold1" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(FormatError, match=r"last\.ckpt cannot be loaded"):
        train_fold(recipe, study, folds, 1, out=tmp_path, resume=True, report=quiet)
    last.unlink()
    train_fold(recipe, study, folds, 1, out=tmp_path, resume=True, report=quiet)


def stop_in(
    epoch: int,
    recipe: Recipe,
    study: Dataset,
    folds: pl.DataFrame,
    out: Path,
    *,
    losses: list[float] | None = None,
) -> None:
    """Train until an epoch begins, counted from 0."""
    with power_cut(epoch):
        if losses is None:
            train_fold(recipe, study, folds, 1, out=out, report=quiet)
        else:
            run_with_losses(losses, recipe, study, folds, out, [])


def test_the_log_has_the_rate_and_the_images_of_its_own_epoch(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A second passes whenever the clock is looked at: once when an epoch has been learnt.
    monkeypatch.setattr("cytoloc.training.progress.time", SimpleNamespace(perf_counter=iter(range(1000)).__next__))
    recipe = tiny("schedule.frozen_epochs=1", "schedule.epochs=2", "schedule.batch_size=64")
    run = train_fold(recipe, study, folds, 1, out=tmp_path, report=quiet)
    log = pl.read_csv(run / "log.csv")
    # One step an epoch: the frozen one at the full rate, then the first and the middle of a cycle.
    expected = [recipe.schedule.learning_rate * rate_factor(step, frozen=1, cycle=2) for step in range(3)]
    assert log["learning_rate"].to_list() == pytest.approx(expected)
    # A lone batch that is not full counts what it holds.
    header = json.loads((run / "run.json").read_text())
    assert log["images_per_second"].to_list() == [len(header["trained_on"])] * 3


def run_with_losses(
    losses: list[float],
    recipe: Recipe,
    study: Dataset,
    folds: pl.DataFrame,
    out: Path,
    said: list[str],
    *,
    resume: bool = False,
) -> Path:
    """Train while the held-out loss of each epoch is as given."""
    log = Learner.log

    def told(learner: Learner, name: str, value: Any, **more: Any) -> None:
        known = name in {"val_loss", "val_macro_f1"}
        log(learner, name, losses[learner.current_epoch] if known else value, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "log", told)
        return train_fold(recipe, study, folds, 1, out=out, resume=resume, report=said.append)


@pytest.mark.parametrize("watch", ["loss", "macro_f1"])
def test_a_run_stops_after_two_cycles_without_progress(
    watch: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    recipe = tiny("schedule.cycles=[1.0, 1.0, 1.0, 1.0, 0.5]", "schedule.patience=2", f"select.watch={watch}")
    sign = 1 if watch == "loss" else -1
    losses = [1 + sign * change for change in (0.2, 0.1, 0.15, 0.1, 0.0)]
    said: list[str] = []
    run = run_with_losses(losses, recipe, study, folds, tmp_path, said)
    # The second cycle is the best; the third and the fourth, which only equals it, are not better.
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1, 2, 3, 4]
    assert torch.load(run / "best.ckpt", weights_only=True)["epoch"] == 1
    cycles = [torch.load(run / f"best-cycle{number}.ckpt", weights_only=True)["epoch"] for number in (1, 2, 3, 4)]
    assert cycles == [0, 1, 2, 3]
    assert f"no better {watch.replace('_', ' ')} for 2 cycles" in said[-1]

    (run / "predictions.parquet").unlink()
    run_with_losses(losses, recipe, study, folds, tmp_path, said, resume=True)
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1, 2, 3, 4]
    assert (run / "predictions.parquet").exists()


def test_a_resumed_run_remembers_its_best_cycle(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny("schedule.cycles=[1.0, 1.0, 1.0, 1.0]", "schedule.patience=2")
    losses = [0.1, 0.5, 0.4, 0.3]
    stop_in(1, recipe, study, folds, tmp_path, losses=losses)
    run = run_with_losses(losses, recipe, study, folds, tmp_path, [], resume=True)
    assert pl.read_csv(run / "log.csv")["epoch"].to_list() == [1, 2, 3]


def test_a_run_starts_from_an_earlier_one_of_the_same_fold(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    for fold in (0, 1):
        train_fold(tiny(), study, folds, fold, out=tmp_path / "small", report=quiet)
    later = ["schedule.learning_rate=1e-12", "schedule.weight_decay=0"]
    weights = f"model.weights=run:{tmp_path}/small/quick-fold{{fold}}"
    run = train_fold(tiny(*later, weights), study, folds, 1, out=tmp_path, report=quiet)
    before, after = (network_of(path / "last.ckpt") for path in (tmp_path / "small" / "quick-fold1", run))
    learnt = [name for name, _ in load(run).networks[0].named_parameters()]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in learnt)

    # A third run knows what the first has seen, by way of the second.
    facts = json.loads((run / "run.json").read_text())
    first = json.loads((tmp_path / "small" / "quick-fold1" / "run.json").read_text())
    assert facts["started_from"] == {
        "name": "quick-fold1",
        "trained_on": sorted(first["trained_on"]),
        "with_head": True,
    }
    less = folds.with_columns(pl.when(pl.col("fold") != 2).then("fold"))
    second = train_fold(tiny(*later, weights, "name=second"), study, less, 1, out=tmp_path, report=quiet)
    assert load(second).info.trained_on == set(first["trained_on"])
    with pytest.raises(TrainingError, match="was trained on"):
        train_fold(tiny(f"model.weights=run:{second}"), study, folds, 2, out=tmp_path / "b", report=quiet)

    leaking = weights.replace("{fold}", "0")
    with pytest.raises(TrainingError, match=r"was trained on \d+ of the \d+ fields held out now"):
        train_fold(tiny(leaking), study, folds, 1, out=tmp_path / "b", report=quiet)
    with pytest.raises(WeightsError, match="with the head average-max, not of test_resnet with plain"):
        train_fold(tiny(weights, "model.head=plain"), study, folds, 1, out=tmp_path / "b", report=quiet)
    with pytest.raises(WeightsError, match="is no run"):
        train_fold(tiny("model.weights=run:nowhere"), study, folds, 1, out=tmp_path / "b", report=quiet)
    assert not (tmp_path / "b").exists()


def test_a_run_starts_from_a_bundle_of_other_fields(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    first, second = sorted(folds["fold"].drop_nulls().unique())[:2]
    apart = folds.with_columns(pl.when(pl.col("fold") != first).then("fold") - 1)
    runs = [train_fold(tiny(), study, apart, fold, out=tmp_path / "small", report=quiet) for fold in (0, 1)]
    bundle = tmp_path / "small.cytoloc"
    write_bundle(runs, bundle)
    still = ["schedule.learning_rate=1e-12", "schedule.weight_decay=0", f"model.weights=bundle:{bundle}"]
    # Held out is what the bundle has not seen.
    run = train_fold(tiny(*still), study, folds, first, out=tmp_path, report=quiet)
    # Fold 0 is held out, so of its two networks it is that of fold 0.
    before, after = network_of(runs[0] / "last.ckpt"), network_of(run / "last.ckpt")
    learnt = [name for name, _ in load(run).networks[0].named_parameters()]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in learnt)
    facts = json.loads((run / "run.json").read_text())
    assert facts["started_from"]["name"] == "quick-fold0"
    assert set(facts["started_from"]["trained_on"]) == set(apart.drop_nulls()["id"])
    with pytest.raises(TrainingError, match=r"small\.cytoloc was trained on \d+ of the \d+ fields held out"):
        train_fold(tiny(*still), study, folds, second, out=tmp_path / "b", report=quiet)
    with pytest.raises(WeightsError, match="not of test_resnet with plain"):
        train_fold(tiny(*still, "model.head=plain"), study, folds, first, out=tmp_path / "b", report=quiet)
    with pytest.raises(WeightsError, match=r"builtin is of tf_efficientnet_lite0"):
        train_fold(tiny("model.weights=bundle:builtin"), study, folds, first, out=tmp_path / "b", report=quiet)
    with pytest.raises(FormatError, match="there is no such bundle file"):
        train_fold(tiny("model.weights=bundle:nowhere"), study, folds, first, out=tmp_path / "b", report=quiet)
    assert not (tmp_path / "b").exists()


def test_antibodies_are_learnt_beside_locations_and_left_out_of_the_model(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    plain = train_fold(tiny(), study, folds, 1, out=tmp_path / "plain", report=quiet)
    both = train_fold(tiny("loss.arcface=0.5"), study, folds, 1, out=tmp_path, report=quiet)
    assert network_of(plain / "last.ckpt").keys() == network_of(both / "last.ckpt").keys()
    assert not same(network_of(plain / "last.ckpt"), network_of(both / "last.ckpt"))
    split = study.fields.filter(~pl.col("id").is_in(folds.filter(pl.col("fold") == 1)["id"].to_list()))
    state = torch.load(both / "last.ckpt", weights_only=True)["state_dict"]
    assert state["second_head.directions"].shape == (split["antibody"].n_unique(), 512)

    unknown = Dataset(
        study.path, study.manifest, study.fields.with_columns(antibody=pl.lit(None, pl.String)), study._array
    )
    with pytest.raises(TrainingError, match="names 0 antibodies"):
        train_fold(tiny("loss.arcface=0.5"), unknown, folds, 1, out=tmp_path / "b", report=quiet)
    assert not (tmp_path / "b").exists()


def test_images_grow_and_are_cut_from_larger_fields(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    forward = Learner._loss_of

    def watch(learner: Learner, batch: Any) -> torch.Tensor:
        seen.append((learner.training, batch.pixels.shape[-1]))
        return forward(learner, batch)

    monkeypatch.setattr(Learner, "_loss_of", watch)
    settings = ["image.size=48", "image.field_size=64", "image.progressive=[32]", "schedule.epochs=2"]
    run = train_fold(tiny(*settings), study, folds, 1, out=tmp_path, report=quiet)
    edges = [edge for _, edge in seen]
    assert edges == [32] * (len(edges) // 2) + [48] * (len(edges) // 2)
    assert len(edges) >= 4
    assert load(run).size == 64


def test_memory_that_does_not_suffice_is_said(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ):

        def full(_learner: Learner, _batch: Any, what: Exception = error) -> torch.Tensor:
            raise what

        monkeypatch.setattr(Learner, "_loss_of", full)
        with pytest.raises(TrainingError, match="A batch of 8 fields of 64 px does not fit") as caught:
            train_fold(tiny(), study, folds, 1, out=tmp_path / str(id(error)), report=quiet)
        assert "--set schedule.batch_size=4 --set schedule.accumulate=2" in caught.value.hint
    with pytest.raises(TrainingError, match="A batch of 2 fields") as caught:
        train_fold(tiny("schedule.batch_size=2"), study, folds, 1, out=tmp_path / "two", report=quiet)
    assert "schedule.batch_size" not in caught.value.hint


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_learner: Learner, _batch: Any) -> torch.Tensor:
        raise NotImplementedError("no such operator on this device")

    monkeypatch.setattr(Learner, "_loss_of", fail)
    with pytest.raises(NotImplementedError, match="no such operator"):
        train_fold(tiny(), study, folds, 1, out=tmp_path, report=quiet)


def test_locations_that_only_held_out_fields_show_are_named(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    truth = study.truth
    held = np.isin(study.ids, folds.filter(pl.col("fold") == 1)["id"].to_numpy())
    lost = truth[held].any(axis=0) & ~truth[~held].any(axis=0)
    assert lost.any()
    said: list[str] = []
    train_fold(tiny(), study, folds, 1, out=tmp_path, report=said.append)
    names = ", ".join(study.label_set[int(number)].name for number in np.flatnonzero(lost))
    assert said[0].startswith(f"quick-fold1: no field to learn from shows {names};")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.focal=0", "loss.soft_f1=0"], "every weight is 0"),
        (["image.field_size=48"], "images of 64 px cannot be cut from it"),
        (["image.progressive=[64, 32]"], "sizes rise from 32 at least to 64"),
        (["sampling.oversample={hpa28 = {28 = 2}}"], "is not a location of the label set hpa28"),
        (["schedule.swa_epochs=2"], "a cycle has only 1 epochs"),
        (["schedule.cycles=[]"], "at least one share"),
        (["select.weights=ema"], "schedule.ema is 0 and keeps none"),
        (["select.weights=swa", "schedule.swa_epochs=1", "select.checkpoint=best"], "of no single one"),
        (["augment.zoom_crop=[1.2, 0.8]"], "the first is at most the second"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny(*overrides)
    assert message in str(caught.value)
