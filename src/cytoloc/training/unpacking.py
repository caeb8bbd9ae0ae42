"""From a recipe to the parts of a run: its loss, its schedule, and the learner that they make of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor

from cytoloc.dataset.store import Dataset
from cytoloc.models.backbones import Stages, feature_channels
from cytoloc.models.heads import AntibodyHead
from cytoloc.models.losses import (
    Loss,
    arcface_loss,
    asymmetric_loss,
    cross_entropy_loss,
    focal_loss,
    hard_cross_entropy_loss,
    lovasz_hinge_loss,
    macro_f1_loss,
    soft_f1_loss,
    symmetric_focal_loss,
    symmetric_lovasz_loss,
    weighted_sum,
)
from cytoloc.models.network import Network
from cytoloc.recipe import Recipe
from cytoloc.recipe_sections import LOSSES, LossSection
from cytoloc.training.augment import Augmentation
from cytoloc.training.data import Fields, Split, antibody_numbers
from cytoloc.training.module import Learner, SecondTask
from cytoloc.training.sampling import epoch_order
from cytoloc.training.schedule import Schedule
from cytoloc.training.together import ALONE, Share


def location_loss(section: LossSection) -> Loss:
    """Return the loss of locations that a recipe adds up."""
    gamma = section.gamma
    known: dict[str, Loss] = {
        "focal": partial(focal_loss, gamma=gamma),
        "soft_f1": soft_f1_loss,
        "symmetric_focal": partial(symmetric_focal_loss, gamma=gamma),
        "cross_entropy": cross_entropy_loss,
        "hard_cross_entropy": partial(hard_cross_entropy_loss, hardest=section.hardest),
        "lovasz": lovasz_hinge_loss,
        "symmetric_lovasz": symmetric_lovasz_loss,
        "macro_f1": macro_f1_loss,
        "asymmetric": partial(
            asymmetric_loss,
            gamma_positive=section.gamma_positive,
            gamma_negative=section.gamma_negative,
            margin=section.asymmetric_margin,
        ),
    }
    weights = {name: float(getattr(section, name)) for name in LOSSES}
    return weighted_sum([(weight, known[name]) for name, weight in weights.items() if weight])


def schedule_of(recipe: Recipe) -> Schedule:
    """Return how long and how fast a recipe learns."""
    section = recipe.schedule
    return Schedule(
        frozen_epochs=section.frozen_epochs,
        epochs=section.epochs,
        cycles=section.cycles,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        betas=section.betas,
        momentum=section.momentum,
        accumulate=section.accumulate,
        ema=section.ema,
        swa_epochs=section.swa_epochs,
        sizes=(*recipe.image.progressive, recipe.image.size) if recipe.image.progressive else (),
    )


def build_learner(recipe: Recipe, network: Network, dataset: Dataset, split: Split, *, share: Share = ALONE) -> Learner:
    """Return a network that is ready to learn a fold as a recipe says.

    Raises:
        TrainingError: If the recipe asks for antibodies that the dataset does not know.
    """
    augment = recipe.augment
    changes = augment.model_dump(exclude={"mixup"})
    antibodies = antibody_numbers(dataset, split.train) if recipe.loss.arcface else {}
    channels = len(recipe.image.channels or dataset.channels)
    second = _antibody_task(recipe, len(antibodies), channels=channels) if antibodies else None
    if recipe.compute.sync_batch_norm and share.of > 1:
        # timm's, which knows its own layers: Lightning's takes the activation out of a batch norm that has one.
        together: Callable[[Any], Any] = partial(convert_sync_batchnorm, process_group=None)
        network = together(network)
        for module in network.modules():
            if isinstance(module, Stages):
                module.listen()
        second = second and SecondTask(together(second.head), second.loss)
    return Learner(
        network,
        Fields(dataset, split.train, channels=recipe.image.channels, antibodies=antibodies),
        Fields(dataset, split.held_out, channels=recipe.image.channels),
        loss=location_loss(recipe.loss),
        augment=Augmentation(**changes, crop_px=recipe.image.size if recipe.image.field_size else 0),
        batch_size=recipe.schedule.batch_size,
        schedule=schedule_of(recipe),
        seed=recipe.seed,
        order=epoch_order(
            recipe.sampling.order,
            mu=recipe.sampling.mu,
            oversample={
                dataset.label_set.index(word): times
                for word, times in recipe.sampling.oversample.get(dataset.label_set.name, {}).items()
            },
            batch_size=recipe.schedule.batch_size,
        ),
        mixup=augment.mixup,
        measured=recipe.select.weights,
        compiled=recipe.compute.compile,
        # Lightning clips no gradients that the optimizer would have to unscale itself.
        fused=recipe.compute.precision == "float32" or not recipe.schedule.clip,
        second=second,
        share=share,
    )


def _antibody_task(recipe: Recipe, antibodies: int, *, channels: int) -> SecondTask:
    features = feature_channels(
        recipe.model.backbone,
        in_channels=channels,
        sizes=(recipe.image.size,),
        stages=recipe.model.head == "multi-stage",
    )
    loss: Callable[[Tensor, Tensor], Tensor] = partial(
        arcface_loss, scale=recipe.loss.arcface_scale, margin=recipe.loss.arcface_margin
    )
    # Its directions are random, by the recipe's seed and nothing that was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        head = AntibodyHead(features[-1], antibodies)
    return SecondTask(head, lambda cosines, numbers: recipe.loss.arcface * loss(cosines, numbers))
