"""What a dataset writes into a recipe, and what every key of a recipe becomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import timm
import torch
from torch import nn

from cytoloc.channels import CHANNELS
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ChannelError, LabelSetError, TableError, TrainingError
from cytoloc.labels.label_set import LabelSet
from cytoloc.models import losses
from cytoloc.models.heads import AverageMaxHead, PlainHead
from cytoloc.models.network import NormalizeEach, build_network, features_and_logits
from cytoloc.models.weights import adapt_first_convolution
from cytoloc.predict.runs import model_spec
from cytoloc.recipes.recipe import Recipe, load_recipe, read_resolved, to_toml
from cytoloc.recipes.sections import LOSSES
from cytoloc.training.augment import Augmentation, mixup_weight
from cytoloc.training.data import field_weights, oversampled_rows, split_dataset
from cytoloc.training.module import Learner
from cytoloc.training.resolve import build_learner, location_loss, resolve_recipe
from tests.training.conftest import OWN, Make, train_fold


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
        ChannelError, match=r"needs the channel nucleus, but .* has protein, nucleous.* Did you mean nuc"
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
    run = train_fold(recipe, dataset, folds, 0, out=tmp_path)
    (run / "predictions.parquet").unlink()
    swapped = LabelSet("mine", 1, (own[0]._replace(name="Nucleus"), own[1]._replace(name="Cortex"), own[2]))
    renamed = make("protein", "nucleus", label_set=swapped, name="renamed")
    with pytest.raises(LabelSetError, match=r"0 \(Nucleus\) against 0 \(Cortex\)"):
        train_fold(recipe, renamed, folds, 0, out=tmp_path, resume=True)
    chosen = load_recipe("quick", overrides=[*settings, 'image.channels=["protein", "nucleus"]'])
    exchanged = make("nucleus", "protein", label_set=own, name="exchanged")
    with pytest.raises(TrainingError, match="was started on other fields"):
        train_fold(chosen, exchanged, folds, 0, out=tmp_path, resume=True)
    train_fold(chosen, dataset, folds, 0, out=tmp_path, resume=True)


def test_what_was_measured_is_reported(make: Make, tmp_path: Path) -> None:
    dataset = make("protein", "golgi")
    folds = pl.DataFrame({"id": dataset.ids, "group": range(9), "fold": [0, 1, 2] * 3})
    settings = ["model.backbone=test_resnet", "model.weights=none", "image.size=32", "schedule.epochs=1"]
    said: list[str] = []
    recipe = load_recipe("quick", overrides=[*settings, "select.tta=1", "schedule.batch_size=2"])
    run = train_fold(recipe, dataset, folds, 0, out=tmp_path, report=said.append)
    assert any("measured channel golgi: mean" in line for line in said)
    assert read_resolved(run / "recipe.toml").image.mean.keys() > {"golgi"}


TINY = [
    "image.size=64",
    "model.backbone=test_resnet",
    "model.weights=none",
    "model.head=plain",
    "select.tta=1",
    "schedule.batch_size=4",
]


def tiny(*overrides: str) -> Recipe:
    return load_recipe("quick", overrides=[*TINY, *overrides])


def learner_of(recipe: Recipe, study: Dataset, folds: pl.DataFrame) -> Learner:
    torch.manual_seed(0)
    return build_learner(recipe, build_network(model_spec(recipe, locations=28)), study, split_dataset(study, folds, 1))


EXPECTED: dict[str, tuple[losses.Loss, list[str]]] = {
    "focal": (partial(losses.focal_loss, gamma=1.3), ["loss.gamma=1.3"]),
    "soft_f1": (losses.soft_f1_loss, []),
    "symmetric_focal": (partial(losses.symmetric_focal_loss, gamma=1.3), ["loss.gamma=1.3"]),
    "cross_entropy": (losses.cross_entropy_loss, []),
    "hard_cross_entropy": (partial(losses.hard_cross_entropy_loss, hardest=7), ["loss.hardest=7"]),
    "generalized_cross_entropy": (
        partial(losses.generalized_cross_entropy_loss, exponent=0.4),
        ["loss.exponent=0.4"],
    ),
    "lovasz": (losses.lovasz_hinge_loss, []),
    "symmetric_lovasz": (losses.symmetric_lovasz_loss, []),
    "macro_f1": (losses.macro_f1_loss, []),
    "asymmetric": (
        partial(losses.asymmetric_loss, gamma_positive=0.7, gamma_negative=2.5, margin=0.2),
        ["loss.gamma_positive=0.7", "loss.gamma_negative=2.5", "loss.asymmetric_margin=0.2"],
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_adds_the_loss_of_its_name(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(5, 28, generator=generator), (torch.rand(5, 28, generator=generator) < 0.2).float()
    expected, settings = EXPECTED[name]
    others = ["loss.focal=0", "loss.soft_f1=0"]
    loss = location_loss(tiny(*others, f"loss.{name}=0.3", *settings).loss)
    assert loss(logits, targets).item() == pytest.approx(0.3 * expected(logits, targets).item(), rel=1e-6)


def test_the_network_is_the_recipes(tmp_path: Path) -> None:
    path = tmp_path / "three.pt"
    state = timm.create_model("test_resnet", pretrained=False, num_classes=0).state_dict()
    torch.save(state, path)
    recipe = tiny("model.new_planes=mean", "model.prior=0.2", "model.dropout=0.3", "image.normalize=field")
    network = build_network(
        model_spec(recipe, locations=28), weights=f"file:{path}", new_planes=recipe.model.new_planes
    )
    first = next(name for name, value in state.items() if value.ndim == 4)
    wide = adapt_first_convolution(state[first], CHANNELS, new_planes="mean")
    assert torch.equal(network.backbone.state_dict()[first], wide)
    assert isinstance(network.normalize, NormalizeEach)
    assert isinstance(network.head, PlainHead)
    assert [layer.p for layer in network.head.modules() if isinstance(layer, nn.Dropout)] == [0.3]
    assert network.head.state_dict()["layers.1.bias"].sigmoid().tolist() == pytest.approx([0.2] * 28)
    other = build_network(
        model_spec(
            tiny("model.head=average-max", "image.mean={microtubules = 0.1, protein = 0.2, nucleus = 0.3, er = 0.4}"),
            locations=28,
        )
    )
    assert isinstance(other.head, AverageMaxHead)
    assert not isinstance(other.normalize, NormalizeEach)
    assert other.normalize.mean.flatten().tolist() == pytest.approx([25.5, 51, 76.5, 102])


def test_an_epoch_has_the_fields_that_sampling_says(study: Dataset, folds: pl.DataFrame) -> None:
    drawn = learner_of(
        tiny("sampling.order=balanced", "sampling.mu=0.4", "sampling.oversample={hpa28 = {25 = 3}}"), study, folds
    )
    truth = drawn.fold.train.truth
    rows = oversampled_rows(truth, {25: 3})
    assert len(rows) > len(truth)
    weights = field_weights(truth, mu=0.4)[rows]
    expected = np.random.default_rng(5).choice(rows, size=len(rows), p=weights / weights.sum())
    expected = expected[: len(rows) // 4 * 4]
    np.testing.assert_array_equal(drawn.fold.sampling.rows(truth, np.random.default_rng(5)), expected)
    shuffled = learner_of(tiny("sampling.oversample={hpa28 = {25 = 3}}"), study, folds)
    times = Counter(shuffled.fold.sampling.rows(truth, np.random.default_rng(5)).tolist())
    assert times <= Counter(rows.tolist())
    assert times.total() == len(rows) // 4 * 4
    # Of batches of 16 fields there is one; of 4 fields there are more, and more fields in them.
    stratified = [
        learner_of(tiny("sampling.order=stratified", f"schedule.batch_size={size}"), study, folds) for size in (4, 16)
    ]
    for size, one in zip((4, 16), stratified, strict=True):
        assert len(one.fold.sampling.rows(truth, np.random.default_rng(5))) == len(truth) // size * size
        assert len(one.train_dataloader()) == len(truth) // size


AUGMENT: dict[str, Any] = {
    "flips": False,
    "turns": False,
    "affine_p": 0.9,
    "rotate_degrees": 20.0,
    "zoom": 1.3,
    "warp": 0.1,
    "zoom_crop": (0.8, 1.1),
    "lighting": 0.2,
    "lighting_p": 0.6,
    "gamma": 0.3,
    "blur": 0.5,
    "noise": 3.0,
    "optics_p": 0.7,
    "tiles": 0.4,
}


def test_images_are_augmented_and_blended_as_the_recipe_says(
    study: Dataset, folds: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        f"augment.{key}={str(value).lower().replace('(', '[').replace(')', ']')}" for key, value in AUGMENT.items()
    ]
    recipe = tiny(*settings, "augment.mixup=0.4", "image.size=48", "image.field_size=64")
    assert set(AUGMENT) | {"mixup"} == set(type(recipe.augment).model_fields)
    learner = learner_of(recipe, study, folds)
    assert learner.spec.augmentation == Augmentation(**AUGMENT, mixup=0.4, crop_px=48)

    monkeypatch.setattr(learner, "log", lambda *_args, **_named: None)
    seen: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    real = features_and_logits

    def keep(network: Any, images: torch.Tensor, **named: Any) -> Any:
        seen.append(images)
        return real(network, images, **named)

    monkeypatch.setattr("cytoloc.training.module.features_and_logits", keep)
    loss = learner.spec.loss

    def kept(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        given.append(targets)
        return loss(logits, targets) if len(given) == 1 else 0 * logits.sum()

    learner.spec = replace(learner.spec, loss=kept)
    batch = learner.fold.train.__getitems__([0, 1, 2, 3])
    total = learner.training_step(batch, 0)
    (blend,), (own, partner) = seen, given
    torch.manual_seed(learner._seed(1, 0))
    images = learner.spec.augmentation(batch.images, generator=torch.default_generator)
    assert images.shape == (4, 4, 48, 48)
    weight = mixup_weight(0.4, generator=torch.default_generator)
    order = torch.randperm(4)
    assert 0.5 <= weight < 1
    assert order.tolist() != [0, 1, 2, 3]
    assert torch.allclose(blend, weight * images.float() + (1 - weight) * images[order].float(), atol=1e-3)
    assert torch.equal(own, batch.targets)
    assert torch.equal(partner, batch.targets[order])
    logits = real(learner.network, blend)[1]
    assert logits.shape == own.shape
    assert total.requires_grad


def test_antibodies_weigh_what_the_recipe_says(study: Dataset, folds: pl.DataFrame) -> None:
    recipe = tiny("loss.arcface=0.2", "loss.arcface_scale=8", "loss.arcface_margin=0.3")
    learner = learner_of(recipe, study, folds)
    assert learner.second is not None
    cosines = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    numbers = torch.tensor([0, 2, 5, -1])
    expected = 0.2 * losses.arcface_loss(cosines, numbers, scale=8, margin=0.3)
    assert learner.second.loss(cosines, numbers).item() == pytest.approx(expected.item())
