from __future__ import annotations

from pathlib import Path

import pytest

from cytoloc.errors import RecipeError
from cytoloc.recipe import load_recipe, read_resolved, recipe_names, to_toml


def test_shipped_recipes() -> None:
    assert recipe_names() == ["quick", "resnet18-128"]
    for name in recipe_names():
        assert load_recipe(name).name == name
    assert load_recipe("resnet18-128").image.size == 128
    assert load_recipe("resnet18-128").loss == load_recipe("quick").loss


def test_a_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = load_recipe("quick", overrides=["image.size=96", "model.weights=none", "seed=4"])
    assert (recipe.image.size, recipe.model.weights, recipe.seed) == (96, "none", 4)
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe))
    assert read_resolved(path) == recipe
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
        ("image.std=[0.1, 0.1, 0.1, 0.0]", "above 0"),
        ("model.head=attentive", "model.head = 'attentive'"),
        ("seed.deep=1", "seed"),
        ("epochs", "not a setting"),
    ],
)
def test_wrong_keys_and_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quick", overrides=[override])
    assert message in str(caught.value)


def test_unknown_recipes_name_the_near_ones() -> None:
    with pytest.raises(RecipeError, match="Did you mean quick"):
        load_recipe("quik")
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe("missing.toml")


def test_what_a_recipe_lacks_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[model]\nbackbone = "resnet18"\n')
    with pytest.raises(RecipeError, match="it lacks name"):
        load_recipe(str(tmp_path / "mine.toml"))
