from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.__main__ import _train_lines
from benchmarks.rounds import Timed, Way, compared, rates_in_turns
from benchmarks.train import (
    CHANNELS_LAST,
    EAGER,
    FASTAI,
    FUSED,
    HALF,
    IN_HALF,
    MEMORY,
    NEARLY,
    OURS,
    PLAIN_HALF,
    SAME_LOSS,
    AtSize,
    TrainBench,
    bench_recipe,
    bench_train,
    best_plain,
    ways,
)
from cytoloc.dataset.store import Dataset
from cytoloc.errors import SettingsError
from cytoloc.recipes.recipe import load_recipe
from cytoloc.training.resolve import location_loss
from tests.conftest import Cli

PEERS = [FASTAI] if importlib.util.find_spec("fastai") else []


def test_all_ways_begin_with_the_same_loss(study: Dataset, tmp_path: Path) -> None:
    recipe = bench_recipe("resnet10t", size=64, batch=6)
    names = [*PEERS, EAGER, CHANNELS_LAST, FUSED, PLAIN_HALF, MEMORY, OURS, HALF]
    learners = ways(names, study, recipe, tmp_path, device="cpu")
    losses = {name: learn(1).loss for name, learn in learners.items()}
    assert list(losses) == names
    usual = losses[EAGER]
    assert losses == {name: pytest.approx(usual, rel=NEARLY if name in IN_HALF else 1e-4) for name in names}
    assert all(losses[name] != pytest.approx(usual, rel=1e-6) for name in IN_HALF)
    assert list(tmp_path.iterdir()) == []


def test_all_ways_change_the_weights(study: Dataset, tmp_path: Path) -> None:
    recipe = bench_recipe("resnet10t", size=64, batch=6)
    names = [*PEERS, EAGER, FUSED, PLAIN_HALF]
    learners = ways(names, study, recipe, tmp_path, device="cpu")
    for learn in learners.values():
        # The first step of the second call comes after the three of the first one.
        assert learn(3).loss - learn(1).loss > 1e-3


def test_the_loss_is_that_of_the_starting_system() -> None:
    recipe = bench_recipe("resnet10t", size=64, batch=6)
    assert (recipe.loss, recipe.model.head) == (load_recipe("resnet34-512").loss, "average-max")


@pytest.mark.skipif(not PEERS, reason="fastai is not installed: pip install 'cytoloc[bench]'")
def test_fastai_has_the_same_function(study: Dataset) -> None:
    from benchmarks.fastai import FastaiSteps
    from cytoloc.models.network import build_network
    from cytoloc.predict.runs import model_spec

    recipe = bench_recipe("resnet10t", size=64, batch=6)
    network = build_network(model_spec(recipe, locations=28)).eval()
    pixels = network.normalize(torch.from_numpy(study.read(range(6))))
    targets = torch.from_numpy(study.truth[:6]).float()
    peer = FastaiSteps(
        "resnet10t", network, pixels=pixels, targets=targets, loss=location_loss(recipe.loss), device="cpu"
    )
    with torch.no_grad():
        ours, theirs = network.head(network.backbone(pixels)), peer.model.eval()(pixels)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert ours.std() > 0.01


def test_losses_that_differ_are_told() -> None:
    way = Way("a", 1.0, 1.0, 1.0, 1.0)
    same = {"a": 2.0, "b": 2.0 * (1 + SAME_LOSS / 2), "c": 2.0}
    nearly = same | {HALF: 2.0 * (1 + NEARLY / 2)}
    for losses, alike in (
        (nearly, True),
        (nearly | {HALF: 2.0 * (1 + 2 * NEARLY)}, False),
        (same, True),
        (same | {"b": 2.01}, False),
        (same | {"a": 1.9}, False),
    ):
        assert AtSize(64, [way], losses, "a", way, way, way, 0.0, {}).same_loss is alike


def test_a_way_may_take_its_own_time() -> None:
    rates = rates_in_turns({"own": lambda: Timed(6, 2), "other": lambda: Timed(8, 4)}, rounds=3)
    assert rates == {"own": [3.0] * 3, "other": [2.0] * 3}
    way = compared({"a": [1.0, 2.0, 9.0], "b": [2.0, 1.0, 3.0]}, "a", against="b")
    assert (way.rate, way.ratio, way.least, way.most) == (2.0, 2.0, 0.5, 3.0)


def test_the_best_of_plain_torch_has_all_its_bits() -> None:
    rates = {FASTAI: [9.0] * 3, EAGER: [1.0, 2.0, 9.0], FUSED: [3.0, 1.0, 3.0], PLAIN_HALF: [8.0] * 3, OURS: [9.0] * 3}
    assert best_plain(rates) == FUSED


def test_another_device_is_refused(study: Dataset, tmp_path: Path) -> None:
    other = "cpu" if torch.accelerator.is_available() else "cuda"
    with pytest.raises(SettingsError, match=f"not on {other}"):
        bench_train([Path(study.path)], tmp_path, device=other)


def test_what_was_measured_is_told() -> None:
    rows = [Way(name, 2.0, ratio, 0.5, 3.0) for name, ratio in ((EAGER, 1.0), (OURS, 1.25))]
    way = Way(OURS, 2.0, 1.25, 1.0, 1.5)
    one = AtSize(64, rows, {EAGER: 5.0, OURS: 5.0}, EAGER, way, way, way, 0.013, {OURS: 1234.5})
    text = "\n".join(_train_lines(TrainBench("cpu", 2, "resnet34", 16, ["fastai"], [one])))
    assert "fastai is not installed and was not timed. To install it: pip install 'cytoloc[bench]'" in text
    assert "loss of the first step, all methods: 5.0000" in text
    assert "1.3% of the time spent waiting for pixels" in text
    assert "cytoloc, from a dataset 1,234 MB" in text
    differ = replace(one, first_loss={EAGER: 5.0, OURS: 5.1})
    text = "\n".join(_train_lines(TrainBench("cpu", 2, "resnet34", 16, [], [differ])))
    assert "not installed" not in text
    assert "FIRST LOSSES DIFFER" in text


@pytest.mark.slow
def test_training_is_measured_without_fastai(bench: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fastai" else find(name))
    one = measure(bench, tmp_path, missing=["fastai"])
    assert one["best_plain"] in {EAGER, CHANNELS_LAST, FUSED}
    assert np.ptp([loss for name, loss in one["first_loss"].items() if name not in IN_HALF]) < 1e-3
    assert 0 < one["waited"] < 1
    assert min(one["peak_mb"].values()) > 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not PEERS, reason="fastai is not installed: pip install 'cytoloc[bench]'")
def test_training_is_measured_against_fastai(bench: Cli, tmp_path: Path) -> None:
    measure(bench, tmp_path, missing=[])


def measure(bench: Cli, tmp_path: Path, *, missing: list[str]) -> dict[str, Any]:
    call = ["train", "--size", 32, "--batch", 2, "--backbone", "resnet10t", "--rounds", 1]
    measured = json.loads(bench(*call, "--scratch", tmp_path, "--json").out)["train"]
    assert (measured["backbone"], measured["batch"], measured["missing"]) == ("resnet10t", 2, missing)
    (one,) = measured["sizes"]
    peers = [] if missing else [FASTAI]
    names = [*peers, EAGER, CHANNELS_LAST, FUSED, PLAIN_HALF, MEMORY, OURS, HALF]
    assert one["size"] == 32
    assert [way["name"] for way in one["steps"]] == names == list(one["first_loss"])
    assert all(way["rate"] > 0 for way in one["steps"])
    assert one["steps"][0]["ratio"] == 1
    assert list(one["peak_mb"]) == [*peers, EAGER, OURS]
    rates = {way["name"]: way["rate"] for way in one["steps"]}
    for key, mine, other in (
        ("ours_to_best", OURS, one["best_plain"]),
        ("half_to_half", HALF, PLAIN_HALF),
        ("ours_to_memory", OURS, MEMORY),
    ):
        assert (one[key]["name"], one[key]["ratio"]) == (mine, pytest.approx(rates[mine] / rates[other]))
    return dict(one)
