from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cytoloc.errors import RecipeError
from cytoloc.recipes.recipe import load_recipe, loss_in_words, published_scores, read_resolved, recipe_names, to_toml
from cytoloc.recipes.sections import LOSSES
from cytoloc.training.augment import tilts, zooms

STARTING_SYSTEM = [
    # The author's own table: network, image, batch, local CV, public, private.
    ("densenet121", 512, 32, 0.577, 0.527, 0.509),
    ("resnet34", 512, 64, 0.581, 0.517, 0.502),
    ("resnet50", 512, 32, 0.573, 0.509, 0.497),
    ("densenet169", 512, 16, 0.565, 0.509, 0.493),
    ("resnet101", 512, 16, 0.580, 0.498, 0.495),
    ("resnet18", 512, 96, 0.588, 0.496, 0.487),
    ("resnet101", 256, 64, 0.552, 0.488, 0.490),
    ("resnet50", 256, 128, 0.561, 0.483, 0.473),
    ("densenet121", 256, 128, 0.562, 0.475, 0.461),
    ("xception", 256, 96, 0.545, 0.473, None),
]


def test_shipped_recipes() -> None:
    own = {"builtin", "finetune", "quick", "resnet18-128", "strong-128", "strong-512", "strong-1024"}
    assert set(recipe_names()) == own | {f"{network}-{size}" for network, size, *_ in STARTING_SYSTEM}
    for name in recipe_names():
        assert load_recipe(name).name == name
    assert load_recipe("resnet18-128").image.size == 128
    assert load_recipe("resnet18-128").loss == load_recipe("quick").loss


def test_the_ten_recipes_are_those_of_the_starting_system_to_the_constant() -> None:
    published = published_scores()
    assert list(published) == [f"{network}-{size}" for network, size, *_ in STARTING_SYSTEM]
    for network, size, batch, *predictions in STARTING_SYSTEM:
        recipe = load_recipe(f"{network}-{size}")
        assert list(published[recipe.name]) == predictions
        assert recipe.model.backbone.removeprefix("legacy_").partition(".")[0] == network
        assert (recipe.image.size, recipe.schedule.batch_size) == (size, batch)
        assert (recipe.loss.focal, recipe.loss.soft_f1, recipe.loss.gamma) == (0.5, 0.5, 2)
        assert loss_in_words(recipe) == "0.5 focal + 0.5 soft F1"
        schedule = recipe.schedule
        assert (schedule.frozen_epochs, schedule.epochs, schedule.patience) == (1, 8, 2)
        assert [1e-3 * share for share in schedule.cycles] == [1e-3] * 5 + [5e-4]
        assert schedule.learning_rate == 1e-3
        assert (schedule.betas, schedule.momentum) == ((0.9, 0.99), (0.95, 0.85))
        assert (recipe.sampling.order, recipe.sampling.mu, recipe.sampling.oversample) == ("balanced", 0, {})
        augment = recipe.augment
        assert (augment.flips, augment.turns, augment.rotate_degrees, augment.zoom) == (True, True, 20, 1.2)
        assert (augment.zoom_crop, augment.tiles, augment.mixup) == ((0.8, 1.2), 0.5, 0)
        assert augment.warp > 0
        assert augment.lighting > 0
        assert (recipe.model.head, recipe.model.dropout, recipe.model.new_planes) == ("average-max", 0.5, "red")
        assert recipe.image.mean == {"microtubules": 0.08069, "protein": 0.05258, "nucleus": 0.05487, "er": 0.08282}
        assert recipe.image.std == {"microtubules": 0.13704, "protein": 0.10145, "nucleus": 0.15313, "er": 0.13814}
        assert (recipe.select.checkpoint, recipe.select.watch) == ("best", "macro_f1")


def test_the_strong_recipes_are_sisters() -> None:
    large, larger, small = (load_recipe(f"strong-{size}") for size in (512, 1024, 128))
    # The small one has too few steps for three losses.
    assert {name: getattr(small.loss, name) for name in LOSSES if getattr(small.loss, name)} == {"cross_entropy": 1.0}
    assert small.loss.arcface == large.loss.arcface == 0.1
    assert larger.image.normalize == large.image.normalize == small.image.normalize == "field"
    # As many hard pairs a step, though every batch picks its own.
    assert larger.loss == large.loss.model_copy(update={"hardest": 16})
    assert larger.loss.hardest * larger.schedule.accumulate == large.loss.hardest
    assert larger.sampling == large.sampling == small.sampling
    assert larger.schedule.batch_size * larger.schedule.accumulate == large.schedule.batch_size
    assert (larger.image.size, larger.image.field_px) == (1024, 1536)
    # The published list: 27, 15 x 10; 10, 9, 8 x 4; 20, 17 x 3; 16, 18, 22, 26, 24 x 2.
    times = {10: {27, 15}, 4: {10, 9, 8}, 3: {20, 17}, 2: {16, 18, 22, 26, 24}}
    oversample = {str(number): count for count, numbers in times.items() for number in numbers}
    assert large.sampling.oversample == {"hpa28": oversample}


def test_a_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = load_recipe("quick", overrides=["image.size=96", "model.weights=none", "seed=4"])
    assert (recipe.image.size, recipe.model.weights, recipe.seed) == (96, "none", 4)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe))
    assert read_resolved(path) == recipe
    path.write_text(to_toml(load_recipe("strong-1024")))
    assert read_resolved(path) == load_recipe("strong-1024")
    path.write_text(to_toml(recipe))
    path.write_text(to_toml(recipe).replace("batch_size = 8\n", ""))
    with pytest.raises(RecipeError, match=r"lacks schedule\.batch_size"):
        read_resolved(path)


def test_a_file_extends_a_recipe_and_is_extended(tmp_path: Path) -> None:
    base, top = tmp_path / "base.toml", tmp_path / "top.toml"
    base.write_text('extends = "quick"\n[schedule]\nepochs = 3\n')
    top.write_text(f'extends = "{base}"\nname = "top"\n[schedule]\nbatch_size = 4\n')
    recipe = load_recipe(str(top))
    assert (recipe.name, recipe.schedule.epochs, recipe.schedule.batch_size) == ("top", 3, 4)
    assert recipe.schedule.learning_rate == load_recipe("quick").schedule.learning_rate


def test_what_a_file_extends_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "deep" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "base.toml").write_text('extends = "quick"\nseed = 3\n')
    (inner / "top.toml").write_text('extends = "../base.toml"\nname = "top"\n')
    monkeypatch.chdir(tmp_path)
    assert load_recipe("deep/inner/top.toml").seed == 3
    (inner.parent / "base.toml").write_text('extends = "inner/top.toml"\n')
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe("deep/inner/top.toml")


def test_a_recipe_cannot_extend_itself(tmp_path: Path) -> None:
    path = tmp_path / "loop.toml"
    path.write_text(f'extends = "{path}"\n')
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epoch=3", "Did you mean schedule.epochs"),
        ("shedule.epochs=3", "Did you mean schedule"),
        ("schedule.epochs=many", "schedule.epochs = 'many'"),
        ("schedule.epochs=0", "schedule.epochs = 0"),
        ("image.std={protein = 0.0}", "above 0"),
        ("model.head=attentive", "model.head = 'attentive'"),
        ("seed.deep=1", "seed"),
        ("seed=99999999999999999999999", "seed = 99999999999999999999999"),
        ("epochs", "not a setting"),
        ("image.mean=[0.1, 0.1, 0.1]", "image.mean = [0.1, 0.1, 0.1]"),
        ("image.std={er = nan}", "image.std.er = nan"),
        ("image.channels=['nucleus']", "the protein channel is missing"),
        ("image.channels=['protein', 'protein']", "two channels have the name protein"),
        ("schedule.learning_rate=inf", "schedule.learning_rate = inf"),
        ("schedule.cycles=[1.0, inf]", "schedule.cycles.1 = inf"),
        ("loss.focal=nan", "loss.focal = nan"),
        ("schedule.epochs=true", "schedule.epochs = True"),
        ("schedule.batch_size='8'", "schedule.batch_size = '8'"),
        ("image.progressive=['32']", "image.progressive.0 = '32'"),
        ("augment.flips=1", "augment.flips = 1"),
        ("select.tta=true", "select.tta = True"),
        ("sampling.oversample={hpa28 = {27 = true}}", "sampling.oversample.hpa28.27 = True"),
        ("name=a/b", "name = 'a/b': use letters, digits"),
        ("name=../x", "name = '../x': use letters, digits"),
        ("name=''", "name = '': use letters, digits"),
        ("image=3", "image is a section, not a value; write image.KEY = 3."),
        ("schedule.patience=2", "patience is 2, but there is only one cycle"),
        ("schedule.betas=[0.9, 1.0]", "from 0 to below 1"),
        ("schedule.momentum=[0.9]", "two numbers or none"),
        ("sampling.mu=0.4", "mu is 0.4, which needs order = 'balanced'"),
    ],
)
def test_wrong_keys_and_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quick", overrides=[override])
    assert message in str(caught.value)


def test_a_tilt_keeps_the_image_in_sight() -> None:
    for warp, low, fits in ((0.5, 0.25, False), (0.5, 0.6, False), (0.5, 0.7, True), (0.14, 0.25, True)):
        settings = [f"augment.warp={warp}", f"augment.zoom_crop=[{low}, 1.0]"]
        worst = tilts(torch.tensor([[-warp / 2, -warp / 2]])) @ zooms(torch.tensor([low]), torch.ones(1, 2))
        assert (float((worst @ torch.ones(3))[0, 2]) > 0) == fits
        if fits:
            load_recipe("quick", overrides=settings)
        else:
            with pytest.raises(RecipeError, match="warps the border to infinity; keep warp below"):
                load_recipe("quick", overrides=settings)


def test_unknown_recipes_name_the_near_ones() -> None:
    with pytest.raises(RecipeError, match="Did you mean quick"):
        load_recipe("quik")
    with pytest.raises(RecipeError, match=r"missing\.toml does not exist"):
        load_recipe("missing.toml")


def test_what_a_recipe_lacks_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[model]\nbackbone = "resnet18"\n')
    with pytest.raises(RecipeError, match="name is missing"):
        load_recipe(str(tmp_path / "mine.toml"))
