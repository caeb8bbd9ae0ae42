"""Every key of a recipe reaches the learner: what is built is read back, and a run's steps are recorded."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import timm
import torch
from torch import nn

from cytoloc.channels import CHANNELS
from cytoloc.dataset.store import Dataset
from cytoloc.models import losses
from cytoloc.models.heads import AverageMaxHead, PlainHead
from cytoloc.models.network import NormalizeEach, build_network
from cytoloc.models.weights import adapt_first_convolution
from cytoloc.predict.runs import model_spec
from cytoloc.recipe import Recipe, load_recipe
from cytoloc.recipe_sections import LOSSES
from cytoloc.training.augment import Augmentation
from cytoloc.training.data import Batch, split_dataset
from cytoloc.training.module import Learner
from cytoloc.training.run import train_fold
from cytoloc.training.sampling import field_weights, repeated
from cytoloc.training.unpacking import build_learner, location_loss
from tests.training.conftest import quiet

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
    truth = drawn.train_fields.truth
    rows = repeated(truth, {25: 3})
    assert len(rows) > len(truth)
    weights = field_weights(truth, mu=0.4)[rows]
    expected = np.random.default_rng(5).choice(rows, size=len(rows), p=weights / weights.sum())
    np.testing.assert_array_equal(drawn.order(truth, np.random.default_rng(5)), expected)
    shuffled = learner_of(tiny("sampling.oversample={hpa28 = {25 = 3}}"), study, folds)
    assert sorted(shuffled.order(truth, np.random.default_rng(5)).tolist()) == sorted(rows.tolist())
    # Of batches of 16 fields there is one; of 4 fields there are more, and more fields in them.
    dealt = [
        learner_of(tiny("sampling.order=stratified", f"schedule.batch_size={size}"), study, folds) for size in (4, 16)
    ]
    for size, one in zip((4, 16), dealt, strict=True):
        assert len(one.order(truth, np.random.default_rng(5))) == len(truth) // size * size
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
    assert learner.augment == Augmentation(**AUGMENT, crop_px=48)

    monkeypatch.setattr(learner, "log", lambda *_args, **_named: None)
    seen: list[tuple[torch.Tensor, list[tuple[float, Batch]]]] = []

    def keep(pixels: torch.Tensor, shares: list[tuple[float, Batch]]) -> torch.Tensor:
        seen.append((pixels, shares))
        return torch.tensor(0.0)

    monkeypatch.setattr(learner, "_both_losses", keep)
    batch = learner.train_fields.__getitems__([0, 1, 2, 3])
    learner.training_step(batch, 0)
    ((blend, ((share, own), (rest, partner))),) = seen
    torch.manual_seed(learner._seed_of(1, 0))
    assert torch.equal(own.pixels, learner.augment(batch.pixels, generator=torch.default_generator))
    assert own.pixels.shape == (4, 4, 48, 48)
    assert 0.5 <= share < 1
    assert rest == pytest.approx(1 - share)
    assert torch.allclose(blend, share * own.pixels.float() + rest * partner.pixels.float(), atol=1e-3)
    assert not torch.equal(partner.pixels, own.pixels)
    order = [next(i for i in range(4) if torch.equal(own.pixels[i], one)) for one in partner.pixels]
    assert torch.equal(partner.targets, own.targets[order])


def test_antibodies_weigh_what_the_recipe_says(study: Dataset, folds: pl.DataFrame) -> None:
    recipe = tiny("loss.arcface=0.2", "loss.arcface_scale=8", "loss.arcface_margin=0.3")
    learner = learner_of(recipe, study, folds)
    assert learner.second is not None
    cosines = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    numbers = torch.tensor([0, 2, 5, -1])
    expected = 0.2 * losses.arcface_loss(cosines, numbers, scale=8, margin=0.3)
    assert learner.second.loss(cosines, numbers).item() == pytest.approx(expected.item())


class Step(NamedTuple):
    """What a step of the optimizer was made with."""

    rate: float
    betas: tuple[float, float]
    decay: float
    gradient: float
    learnt: int


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Return a list that the steps of the runs to come are added to."""
    made: list[Step] = []
    configure = Learner.configure_optimizers

    def note(optimizer: torch.optim.Optimizer, _args: Any, _named: Any) -> None:
        (group,) = optimizer.param_groups
        gradients = [value.grad.flatten() for value in group["params"] if value.grad is not None]
        norm = float(torch.cat(gradients).norm())
        made.append(Step(group["lr"], group["betas"], group["weight_decay"], norm, len(group["params"])))

    def watched(learner: Learner) -> Any:
        configured = configure(learner)
        configured["optimizer"].register_step_post_hook(note)
        return configured

    monkeypatch.setattr(Learner, "configure_optimizers", watched)
    return made


def height_by_hand(progress: float) -> float:
    if progress < 0.3:
        return (1 - math.cos(math.pi * progress / 0.3)) / 2
    return (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2


def test_steps_have_the_rates_betas_decay_and_bound_of_the_recipe(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Step]
) -> None:
    seeds: list[int] = []
    loss_of = Learner._loss_of

    def keep(learner: Learner, batch: Batch) -> torch.Tensor:
        seeds.append(torch.initial_seed())
        return loss_of(learner, batch)

    monkeypatch.setattr(Learner, "_loss_of", keep)
    recipe = tiny(
        "schedule.frozen_epochs=1",
        "schedule.epochs=2",
        "schedule.cycles=[1.0, 0.5]",
        "schedule.accumulate=2",
        "schedule.learning_rate=2e-3",
        "schedule.weight_decay=0.03",
        "schedule.betas=[0.8, 0.98]",
        "schedule.momentum=[0.95, 0.85]",
        "schedule.clip=0.01",
        "loss.arcface=0.1",
    )
    train_fold(recipe, study, folds, 1, out=tmp_path, report=quiet)
    fields = len(split_dataset(study, folds, 1).train)
    an_epoch = math.ceil(fields // 4 / 2)
    assert len(steps) == 5 * an_epoch
    assert len(set(seeds)) == len(seeds) == 5 * (fields // 4)
    for number, step in enumerate(steps):
        cycle, place = divmod(number - an_epoch, 2 * an_epoch)
        height = height_by_hand(place / (2 * an_epoch))
        rising = place / (2 * an_epoch) < 0.3
        rate = (1.0, 0.5)[cycle] * (1 / 25 + 24 / 25 * height if rising else height) if cycle >= 0 else 1.0
        assert step.rate == pytest.approx(2e-3 * rate, abs=1e-12), number
        assert step.betas == pytest.approx((0.95 - 0.1 * height if cycle >= 0 else 0.8, 0.98)), number
        assert step.decay == 0.03
        assert step.gradient <= 0.0101
    learner = learner_of(recipe, study, folds)
    assert learner.second is not None
    both = [*learner.network.parameters(), *learner.second.head.parameters()]
    assert {step.learnt for step in steps} == {len(both)}


def test_without_a_bound_and_without_cycled_momentum(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, steps: list[Step]
) -> None:
    recipe = tiny("schedule.frozen_epochs=0", "schedule.epochs=1")
    train_fold(recipe, study, folds, 1, out=tmp_path, report=quiet)
    assert {step.betas for step in steps} == {(0.9, 0.999)}
    assert min(step.gradient for step in steps) > 0.0101
