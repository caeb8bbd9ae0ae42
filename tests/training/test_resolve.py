"""What a dataset writes into a recipe: its channels, their statistics, its label set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import write_dataset
from cytoloc.errors import ChannelError, LabelSetError, TableError, TrainingError, WeightsError
from cytoloc.labels import LabelSet
from cytoloc.models.network import build_network
from cytoloc.predict.runs import model_spec
from cytoloc.recipe import load_recipe, read_resolved, to_toml
from cytoloc.training.resolve import resolve_recipe
from cytoloc.training.run import train_fold
from cytoloc.training.starting import first_network

OWN = LabelSet.from_names(["Cortex", "Nucleus", "Vesicles"], name="mine")
Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*channels: str, label_set: LabelSet = OWN, size: int = 32, name: str = "") -> Dataset:
        rng = np.random.default_rng(0)
        rows = (
            FieldRow(id=f"f{i}", source="test", original_px=size, original_width_px=size, labels=(i % len(label_set),))
            for i in range(9)
        )
        fields = [(row, rng.integers(0, 200, (len(channels), size, size), dtype=np.uint8)) for row in rows]
        path = tmp_path / f"{name or '-'.join(channels)}-{size}.dataset"
        return write_dataset(path, fields, size=size, channels=channels, label_set=label_set, made_by={"command": "t"})

    return make


def test_channels_and_label_set_become_those_of_the_dataset(make: Make, tmp_path: Path) -> None:
    dataset = make("protein", "nucleus", "golgi")
    recipe = resolve_recipe(load_recipe("quick"), dataset)
    assert (recipe.image.channels, recipe.label_set) == (("protein", "nucleus", "golgi"), "mine")
    assert recipe.image.mean["protein"] == 0.05258
    # The statistics of a channel that the recipe does not know are those of its pixels.
    pixels = np.stack(list(dataset))[:, 2] / 255
    assert recipe.image.mean["golgi"] == pytest.approx(pixels.mean(), abs=1e-5)
    assert recipe.image.std["golgi"] == pytest.approx(pixels.std(), abs=1e-5)
    spec = model_spec(recipe, locations=3)
    assert (spec.mean[2], spec.channels) == (recipe.image.mean["golgi"], dataset.channels)
    # A run keeps the resolved recipe, and reads it back as it was.
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))
    assert read_resolved(tmp_path / "recipe.toml") == recipe == resolve_recipe(recipe, dataset)


def test_some_of_the_channels_can_be_chosen(make: Make) -> None:
    chosen = load_recipe("quick", overrides=['image.channels=["nucleus", "protein"]'])
    assert resolve_recipe(chosen, make("protein", "nucleus", "er")).image.channels == ("nucleus", "protein")
    with pytest.raises(
        ChannelError, match=r"sees the channel nucleus, but .* has protein, nucleous.* Did you mean nuc"
    ):
        resolve_recipe(chosen, make("protein", "nucleous"))


def test_a_recipe_for_another_label_set_is_refused(make: Make, tmp_path: Path) -> None:
    dataset = make("protein")
    with pytest.raises(LabelSetError, match=r"differ: mine \(version 1, 3 locations\) in .*, hpa28 .* in recipe quick"):
        resolve_recipe(load_recipe("quick", overrides=["label_set=hpa28"]), dataset)
    with pytest.raises(LabelSetError, match=r"is for the label set yeast, but .* has mine"):
        resolve_recipe(load_recipe("quick", overrides=["label_set=yeast"]), dataset)
    # A shipped label set, or one in a file, is compared by its locations, whatever the dataset's set is called.
    impostor = make("protein", label_set=LabelSet("hpa28", 1, OWN.locations), name="impostor")
    with pytest.raises(LabelSetError, match="position 0: cortex"):
        resolve_recipe(load_recipe("quick", overrides=["label_set=hpa28"]), impostor)
    own = tmp_path / "mine.csv"
    own.write_text("name\n" + "\n".join(OWN.names))
    assert resolve_recipe(load_recipe("quick", overrides=[f"label_set={own}"]), dataset).label_set == "mine"
    own.write_text("name\n" + "\n".join(OWN.names[::-1]))
    with pytest.raises(LabelSetError, match="position 0"):
        resolve_recipe(load_recipe("quick", overrides=[f"label_set={own}"]), dataset)
    # Oversampling is by label set: what is meant for another one is not used.
    assert resolve_recipe(load_recipe("strong-128"), dataset).label_set == "mine"
    with pytest.raises(TableError, match=r"'cortx' is not a location of the label set mine\.\n.*Cortex"):
        resolve_recipe(load_recipe("quick", overrides=["sampling.oversample={mine = {cortx = 2}}"]), dataset)


def test_a_run_is_not_resumed_with_other_names_or_channels(make: Make, tmp_path: Path) -> None:
    settings = ["model.backbone=test_resnet", "model.weights=none", "image.size=32", "schedule.epochs=1"]
    settings += ["select.tta=1", "schedule.batch_size=2"]
    recipe = load_recipe("quick", overrides=settings)
    own = LabelSet("mine", 1, tuple(each._replace(key=str(number)) for number, each in enumerate(OWN)))
    dataset = make("protein", "nucleus", label_set=own)
    folds = pl.DataFrame({"id": dataset.ids, "group": range(9), "fold": [0, 1, 2] * 3})
    run = train_fold(recipe, dataset, folds, 0, out=tmp_path, report=lambda _line: None)
    (run / "predictions.parquet").unlink()
    swapped = LabelSet("mine", 1, (own[0]._replace(name="Nucleus"), own[1]._replace(name="Cortex"), own[2]))
    renamed = make("protein", "nucleus", label_set=swapped, name="renamed")
    with pytest.raises(LabelSetError, match=r"0 \(Nucleus\) against 0 \(Cortex\)"):
        train_fold(recipe, renamed, folds, 0, out=tmp_path, resume=True, report=lambda _line: None)
    chosen = load_recipe("quick", overrides=[*settings, 'image.channels=["protein", "nucleus"]'])
    exchanged = make("nucleus", "protein", label_set=own, name="exchanged")
    with pytest.raises(TrainingError, match="was started on other fields"):
        train_fold(chosen, exchanged, folds, 0, out=tmp_path, resume=True, report=lambda _line: None)
    train_fold(chosen, dataset, folds, 0, out=tmp_path, resume=True, report=lambda _line: None)


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
    with pytest.raises(WeightsError, match="sees microtubules, protein, nucleus, er, not actin"):
        first_network(other, OWN, fold=0, held_out=[])


FOUR = ("microtubules", "protein", "nucleus", "er")


def test_what_was_measured_is_reported(make: Make, tmp_path: Path) -> None:
    dataset = make("protein", "golgi")
    folds = pl.DataFrame({"id": dataset.ids, "group": range(9), "fold": [0, 1, 2] * 3})
    settings = ["model.backbone=test_resnet", "model.weights=none", "image.size=32", "schedule.epochs=1"]
    said: list[str] = []
    recipe = load_recipe("quick", overrides=[*settings, "select.tta=1", "schedule.batch_size=2"])
    run = train_fold(recipe, dataset, folds, 0, out=tmp_path, report=said.append)
    assert any("channel golgi has a mean of" in line for line in said)
    assert read_resolved(run / "recipe.toml").image.mean.keys() > {"golgi"}


def test_a_network_without_statistics_of_a_channel_is_refused() -> None:
    with pytest.raises(Exception, match="no mean or standard deviation of the channel golgi"):
        build_network(model_spec(load_recipe("quick", overrides=['image.channels=["protein", "golgi"]']), locations=3))
