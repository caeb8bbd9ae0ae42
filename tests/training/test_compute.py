"""How a step is worked out: half precision, compiled networks, the layout of pixels, all weights at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from cytoloc.dataset.store import Dataset
from cytoloc.errors import TrainingError
from cytoloc.models.network import build_network, features_and_logits
from cytoloc.predict.loading import load
from cytoloc.predict.runs import model_spec
from cytoloc.prediction_files import read_predictions
from cytoloc.recipe import Recipe, load_recipe
from cytoloc.training.data import split_dataset
from cytoloc.training.devices import accelerator, refuse_precision
from cytoloc.training.module import Learner
from cytoloc.training.run import check_run, train_fold
from cytoloc.training.unpacking import build_learner
from tests.training.conftest import power_cut, quiet, state_of

TINY = [
    "image.size=64",
    "model.backbone=test_resnet",
    "model.weights=none",
    "select.tta=1",
    "schedule.batch_size=8",
    "schedule.frozen_epochs=0",
    "schedule.epochs=2",
]
HALF = ["compute.precision=bfloat16", "loss.arcface=0.1", "loss.macro_f1=0.5", "schedule.clip=1.0", "schedule.ema=0.9"]


def tiny(*overrides: str) -> Recipe:
    return load_recipe("quick", overrides=[*TINY, *overrides])


def stopped_and_resumed(recipe: Recipe, study: Dataset, folds: pl.DataFrame, out: Path) -> Path:
    with power_cut(1):
        train_fold(recipe, study, folds, 1, out=out, report=quiet)
    return train_fold(recipe, study, folds, 1, out=out, resume=True, report=quiet)


def test_in_half_precision_the_backbone_alone_has_fewer_bits(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[tuple[str, torch.dtype]] = set()
    sees = Learner._both_losses

    def watch(learner: Learner, pixels: Tensor, shares: Any) -> Tensor:
        last = [module for module in learner.network.backbone.modules() if isinstance(module, nn.Conv2d)][-1]
        parts = {"backbone": last, "head": learner.network.head, "second": learner.second_head}
        hooks = [
            module.register_forward_hook(lambda _module, _given, made, name=name: kinds.add((name, made.dtype)))
            for name, module in parts.items()
            if module is not None
        ]
        total = sees(learner, pixels, shares)
        kinds.add(("loss", total.dtype))
        for hook in hooks:
            hook.remove()
        return total

    monkeypatch.setattr(Learner, "_both_losses", watch)
    run = train_fold(tiny(*HALF), study, folds, 1, out=tmp_path, report=quiet)
    whole = {(name, torch.float32) for name in ("head", "second", "loss")}
    assert kinds == whole | {("backbone", torch.bfloat16)}
    state = state_of(run / "last.ckpt")
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    assert len(load(run).networks) == 1


def test_half_precision_resumes_bitwise(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    undisturbed = train_fold(tiny(*HALF), study, folds, 1, out=tmp_path / "whole", report=quiet)
    resumed = stopped_and_resumed(tiny(*HALF), study, folds, tmp_path)
    one, other = state_of(undisturbed / "last.ckpt"), state_of(resumed / "last.ckpt")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    single = state_of(
        train_fold(tiny(*HALF[1:]), study, folds, 1, out=tmp_path / "float32", report=quiet) / "last.ckpt"
    )
    assert any(not torch.equal(one[name], single[name]) for name in one)


def test_float16_is_refused_where_it_cannot_be_trained(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    for device in ("cpu", "mps"):
        with pytest.raises(TrainingError, match=f"trains on CUDA GPUs; this machine has a {device} device"):
            refuse_precision("float16", device)
    for precision, device in (("float16", "cuda"), ("bfloat16", "cpu"), ("float32", "mps")):
        refuse_precision(precision, device)
    if accelerator() != "cuda":
        with pytest.raises(TrainingError, match=r"compute\.precision is 'float16'"):
            check_run(tiny("compute.precision=float16"), study, folds, 1, out=tmp_path, resume=False)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["average-max", "multi-stage"])
def test_a_compiled_run_resumes_bitwise_and_loads_as_one_that_is_not(
    head: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    settings = [f"model.head={head}", "model.dropout=0"]
    plain = train_fold(tiny(*settings), study, folds, 1, out=tmp_path / "plain", report=quiet)
    recipe = tiny(*settings, "compute.compile=true")
    run = train_fold(recipe, study, folds, 1, out=tmp_path / "whole", report=quiet)
    resumed = stopped_and_resumed(recipe, study, folds, tmp_path)
    one, other = state_of(run / "last.ckpt"), state_of(resumed / "last.ckpt")
    assert all(torch.equal(one[name], other[name]) for name in one)
    expected = state_of(plain / "last.ckpt")
    assert one.keys() == expected.keys()
    losses = [pl.read_csv(path / "log.csv")["train_loss"][0] for path in (run, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert any(not torch.equal(one[name], expected[name]) for name in one)
    of_both = [read_predictions(path / "predictions.parquet").probabilities for path in (run, plain)]
    np.testing.assert_allclose(of_both[0], of_both[1], atol=0.05)


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_is_said(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor
    from torch._inductor.utils import fresh_cache

    monkeypatch.setattr(inductor.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    with fresh_cache(), pytest.raises(TrainingError, match="The network cannot be compiled") as caught:
        train_fold(tiny("compute.compile=true"), study, folds, 1, out=tmp_path, report=quiet)
    assert "compute.compile=false" in caught.value.hint


def test_pixels_and_filters_have_their_channels_last() -> None:
    network = build_network(model_spec(tiny(), locations=28))
    layouts: list[tuple[bool, bool]] = []

    def look(module: nn.Conv2d, given: tuple[Tensor], _made: Tensor) -> None:
        last = torch.channels_last
        layouts.append((given[0].is_contiguous(memory_format=last), module.weight.is_contiguous(memory_format=last)))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    features_and_logits(network, torch.zeros(2, 4, 64, 64, dtype=torch.uint8))
    assert len(layouts) > 5
    assert set(layouts) == {(True, True)}


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        ([], True),
        (["schedule.clip=1.0"], True),
        (["compute.precision=bfloat16"], True),
        (["compute.precision=bfloat16", "schedule.clip=1.0"], False),
    ],
)
def test_all_weights_are_updated_at_once_where_lightning_can(
    settings: list[str],
    fused: bool,  # noqa: FBT001  pytest passes it by name
    study: Dataset,
    folds: pl.DataFrame,
) -> None:
    recipe = tiny(*settings)
    network = build_network(model_spec(recipe, locations=28))
    learner = build_learner(recipe, network, study, split_dataset(study, folds, 1))
    assert learner.configure_optimizers()["optimizer"].param_groups[0]["fused"] == fused
