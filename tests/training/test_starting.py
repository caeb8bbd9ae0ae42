"""The network that a run starts with: weights of an earlier run or of a bundle, and of other channels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cytoloc.dataset.store import Dataset
from cytoloc.errors import (
    FormatError,
    RecipeError,
    TrainingError,
    WeightsError,
)
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import build_network
from cytoloc.predict.bundle import write_bundle
from cytoloc.predict.loading import load
from cytoloc.predict.runs import model_spec
from cytoloc.recipes.recipe import load_recipe, read_resolved
from cytoloc.training.options import TrainOptions
from cytoloc.training.resolve import resolve_recipe
from cytoloc.training.run import train
from cytoloc.training.starting import first_network, inherit_settings
from tests.training.conftest import OWN, Make, network_of, quiet, tiny, train_fold


def test_a_run_starts_from_an_earlier_one_of_the_same_fold(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    for fold in (0, 1):
        train_fold(tiny(), study, folds, fold, out=tmp_path / "small")
    later = ["schedule.learning_rate=1e-12", "schedule.weight_decay=0"]
    weights = f"model.weights=run:{tmp_path}/small/quick-fold{{fold}}"
    run = train_fold(tiny(*later, weights), study, folds, 1, out=tmp_path)
    before, after = (network_of(path / "last.ckpt") for path in (tmp_path / "small" / "quick-fold1", run))
    trained = [name for name, _ in load(run).networks[0].named_parameters()]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in trained)

    # A third run knows what the first has seen, by way of the second.
    facts = json.loads((run / "run.json").read_text())
    first = json.loads((tmp_path / "small" / "quick-fold1" / "run.json").read_text())
    assert facts["started_from"] == {
        "name": "quick-fold1",
        "trained_on": sorted(first["trained_on"]),
        "with_head": True,
    }
    less = folds.with_columns(pl.when(pl.col("fold") != 2).then("fold"))
    second = train_fold(tiny(*later, weights, "name=second"), study, less, 1, out=tmp_path)
    assert load(second).info.trained_on == set(first["trained_on"])
    with pytest.raises(TrainingError, match="was trained on"):
        train_fold(tiny(f"model.weights=run:{second}"), study, folds, 2, out=tmp_path / "b")

    leaking = weights.replace("{fold}", "0")
    with pytest.raises(TrainingError, match=r"was trained on \d+ of the \d+ fields of the validation fold"):
        train_fold(tiny(leaking), study, folds, 1, out=tmp_path / "b")
    with pytest.raises(WeightsError, match=r"head average-max, .* but the recipe has backbone test_resnet, head plain"):
        train_fold(tiny(weights, "model.head=plain"), study, folds, 1, out=tmp_path / "b")
    with pytest.raises(WeightsError, match="nowhere is not a run"):
        train_fold(tiny("model.weights=run:nowhere"), study, folds, 1, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_run_starts_from_a_bundle_of_other_fields(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    first, second = sorted(folds["fold"].drop_nulls().unique())[:2]
    apart = folds.with_columns(pl.when(pl.col("fold") != first).then("fold") - 1)
    runs = [train_fold(tiny(), study, apart, fold, out=tmp_path / "small") for fold in (0, 1)]
    bundle = tmp_path / "small.cytoloc"
    write_bundle(runs, bundle)
    still = ["schedule.learning_rate=1e-12", "schedule.weight_decay=0", f"model.weights=bundle:{bundle}"]
    # Held out is what the bundle has not seen.
    run = train_fold(tiny(*still), study, folds, first, out=tmp_path)
    # Fold 0 is held out, so of its two networks it is that of fold 0.
    before, after = network_of(runs[0] / "last.ckpt"), network_of(run / "last.ckpt")
    trained = [name for name, _ in load(run).networks[0].named_parameters()]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in trained)
    facts = json.loads((run / "run.json").read_text())
    assert facts["started_from"]["name"] == "quick-fold0"
    assert set(facts["started_from"]["trained_on"]) == set(apart.drop_nulls()["id"])
    with pytest.raises(
        TrainingError, match=r"small\.cytoloc was trained on \d+ of the \d+ fields of the validation fold"
    ):
        train_fold(tiny(*still), study, folds, second, out=tmp_path / "b")
    with pytest.raises(WeightsError, match=r"head average-max, .* but the recipe has backbone test_resnet, head plain"):
        train_fold(tiny(*still, "model.head=plain"), study, folds, first, out=tmp_path / "b")
    with pytest.raises(WeightsError, match=r"builtin has a network with backbone tf_efficientnet_lite0"):
        train_fold(tiny("model.weights=bundle:builtin"), study, folds, first, out=tmp_path / "b")
    with pytest.raises(FormatError, match="The bundle file nowhere does not exist"):
        train_fold(tiny("model.weights=bundle:nowhere"), study, folds, first, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_an_earlier_network_gives_its_backbone_to_other_locations_and_channels(make: Make, tmp_path: Path) -> None:
    dataset = make("nucleus", "protein", size=128)
    recipe = resolve_recipe(load_recipe("builtin", overrides=["model.weights=bundle:builtin"]), dataset)
    start = first_network(recipe, OWN, fold=0, held_out=[])
    assert start.started_from["with_head"] is False
    four = resolve_recipe(load_recipe("builtin", overrides=["model.weights=bundle:builtin"]), make(*FOUR, size=128))
    whole = first_network(four, LabelSet.hpa28(), fold=0, held_out=[])
    assert whole.started_from["with_head"] is True
    stem = "backbone.conv_stem.weight"
    usual = whole.network.state_dict()[stem]
    np.testing.assert_array_equal(start.network.state_dict()[stem], usual[:, [2, 1]])
    other = resolve_recipe(load_recipe("builtin", overrides=["model.weights=bundle:builtin"]), make("protein", "actin"))
    with pytest.raises(WeightsError, match="has the channels microtubules, protein, nucleus, er, but not actin"):
        first_network(other, OWN, fold=0, held_out=[])


def test_weights_that_expect_another_normalization_are_refused_or_give_theirs(make: Make, tmp_path: Path) -> None:
    dataset = make(*FOUR, size=128)
    stranger = ["model.weights=bundle:builtin", "model.head=average-max", "image.size=128"]
    recipe = resolve_recipe(load_recipe("quick", overrides=stranger), dataset)
    with pytest.raises(WeightsError, match="normalized in another way") as refused:
        first_network(recipe, LabelSet.hpa28(), fold=0, held_out=[])
    assert "model.inherit=true" in refused.value.hint
    inherited = inherit_settings(
        load_recipe(recipe, overrides={"model": {"inherit": True, "backbone": "resnet18", "head": "plain"}}),
        fold=0,
        folder=tmp_path / "run",
    )
    builtin = load_recipe("builtin")
    assert (inherited.model.backbone, inherited.model.head) == (builtin.model.backbone, builtin.model.head)
    assert (inherited.image.normalize, recipe.image.normalize) == ("field", "set")
    start = first_network(inherited, LabelSet.hpa28(), fold=0, held_out=[])
    images = dataset.read([0, 1])
    expected = load("builtin").networks[0].eval()
    expected.enlarged_px = None  # training sees images at their own size
    with torch.no_grad():
        np.testing.assert_allclose(
            start.network.eval()(torch.from_numpy(images)), expected(torch.from_numpy(images)), atol=1e-5
        )
    # Means and standard deviations are compared too, and taken over.
    kept = ["image.mean={microtubules = 0.2}", *stranger]
    with pytest.raises(WeightsError, match="normalized in another way"):
        first_network(load_recipe(recipe, overrides=kept), LabelSet.hpa28(), fold=0, held_out=[])


def test_means_of_an_earlier_run_are_taken_over(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    train_fold(tiny("image.mean={protein = 0.2}"), study, folds, 0, out=tmp_path / "small")
    weights = f"model.weights=run:{tmp_path}/small/quick-fold{{fold}}"
    with pytest.raises(WeightsError, match="normalized in another way"):
        train_fold(tiny(weights), study, folds, 0, out=tmp_path / "b")
    run = train_fold(tiny(weights, "model.inherit=true", "model.head=plain"), study, folds, 0, out=tmp_path / "b")
    resolved = read_resolved(run / "recipe.toml")
    assert resolved.image.mean["protein"] == pytest.approx(0.2, abs=1e-6)
    assert (resolved.model.head, resolved.image.normalize) == ("average-max", "set")
    # A finished run does not need the earlier one any more.
    (tmp_path / "small").rename(tmp_path / "moved")
    again = tiny(weights, "model.inherit=true", "model.head=plain")
    assert train_fold(again, study, folds, 0, out=tmp_path / "b", resume=True) == run


def test_settings_are_inherited_from_a_run_of_the_same_call(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    weights = f"model.weights=run:{tmp_path}/first-fold{{fold}}"
    first = tiny("name=first", "image.mean={protein = 0.2}")
    second = tiny("name=second", weights, "model.inherit=true", "model.head=plain")
    runs = train([first, second], study, folds, fold=0, out=tmp_path, options=TrainOptions(report=quiet))
    resolved = read_resolved(runs[1].folder / "recipe.toml")
    assert (resolved.image.mean["protein"], resolved.model.head) == (0.2, "average-max")


def test_only_the_settings_of_a_network_are_inherited() -> None:
    with pytest.raises(RecipeError, match=r"inherit is true, but weights is 'timm'"):
        load_recipe("quick", overrides=["model.inherit=true", "model.weights=timm"])


def test_a_network_without_statistics_of_a_channel_is_refused() -> None:
    with pytest.raises(Exception, match="no mean or standard deviation for the channel golgi"):
        build_network(model_spec(load_recipe("quick", overrides=['image.channels=["protein", "golgi"]']), locations=3))


FOUR = ("microtubules", "protein", "nucleus", "er")
