"""Resolving a recipe for a dataset, and building the learner of a run from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor

from cytoloc.channels import near_channels
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ChannelError, LabelSetError, TrainingError
from cytoloc.labels.label_set import SHIPPED, find_label_set
from cytoloc.models.backbones import Stages, feature_channels
from cytoloc.models.heads import AntibodyHead
from cytoloc.models.losses import (
    Loss,
    arcface_loss,
    asymmetric_loss,
    cross_entropy_loss,
    focal_loss,
    generalized_cross_entropy_loss,
    hard_cross_entropy_loss,
    lovasz_hinge_loss,
    macro_f1_loss,
    soft_f1_loss,
    symmetric_focal_loss,
    symmetric_lovasz_loss,
    weighted_sum,
)
from cytoloc.models.network import Network
from cytoloc.recipes.recipe import Recipe
from cytoloc.recipes.sections import LOSSES, LossSection
from cytoloc.training.augment import Augmentation
from cytoloc.training.data import FieldBatches, FoldData, Sampling, Split, antibody_numbers
from cytoloc.training.distributed import SINGLE, Processes
from cytoloc.training.module import Learner, SecondTask, TrainingSpec
from cytoloc.training.options import DEFAULT_OPTIONS, TrainOptions
from cytoloc.training.schedule import Schedule

MEASURED_FIELDS: Final = 256
"""Maximum number of fields, evenly spaced in the dataset, from which the statistics of a channel are measured."""


def resolve_recipe(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return the complete recipe for a dataset.

    ``image.channels`` becomes the channels of the dataset, unless the recipe lists channels. The mean and standard
    deviation of channels that the recipe does not know are measured on the dataset, after division by 255, and rounded
    to five digits. ``label_set`` becomes the name of the dataset's label set.

    Args:
        recipe: The recipe.
        dataset: The dataset.

    Returns:
        The complete recipe.

    Raises:
        ChannelError: If the dataset lacks a channel of the recipe.
        LabelSetError: If the recipe is for another label set.
        TrainingError: If the dataset has no fields.
        TableError: If ``sampling.oversample`` contains unknown locations.
    """
    if not len(dataset):
        raise TrainingError(f"{dataset.path} has no fields.", hint="Import fields, or finish the import.")
    wanted = recipe.label_set
    if wanted in SHIPPED or wanted.lower().endswith((".csv", ".toml")):
        find_label_set(wanted).refuse_other(dataset.label_set, what=str(dataset.path), than=f"recipe {recipe.name}")
    elif wanted not in ("", dataset.label_set.name):
        raise LabelSetError(
            f"Recipe {recipe.name} is for the label set {recipe.label_set}, but {dataset.path} has"
            f" {dataset.label_set}.",
            hint="Choose another recipe, or remove label_set from it.",
        )
    for word in recipe.sampling.oversample.get(dataset.label_set.name, {}):
        dataset.label_set.index(word, where=f"Recipe {recipe.name}, sampling.oversample")
    channels = recipe.image.channels or dataset.channels
    missing = [name for name in channels if name not in dataset.channels]
    if missing:
        raise ChannelError(
            f"Recipe {recipe.name} needs the channel {missing[0]}, but {dataset.path} has"
            f" {', '.join(dataset.channels)}.{near_channels(missing[0], dataset.channels)}",
            hint="Remove image.channels from the recipe to train on the channels of the dataset.",
        )
    mean, std = dict(recipe.image.mean), dict(recipe.image.std)
    unknown = [name for name in channels if name not in mean or name not in std]
    if unknown:
        rows = np.unique(np.linspace(0, len(dataset) - 1, min(MEASURED_FIELDS, len(dataset))).round().astype(np.int64))
        planes = [dataset.channels.index(name) for name in unknown]
        # One field at a time, because a batch of large fields as floats may not fit into memory.
        pixels = (dataset[int(row)][planes].astype(np.float64) / 255 for row in rows)
        moments = np.mean([[(plane.mean(), np.square(plane).mean()) for plane in field] for field in pixels], axis=0)
        # The standard deviation of a channel without contrast is set to one gray value.
        deviations = np.sqrt(np.maximum(moments[:, 1] - np.square(moments[:, 0]), 1 / 255**2))
        for name, average, deviation in zip(unknown, moments[:, 0], deviations, strict=True):
            mean.setdefault(name, round(float(average), 5))
            std.setdefault(name, round(float(deviation), 5))
    image = recipe.image.model_copy(update={"channels": tuple(channels), "mean": mean, "std": std})
    return recipe.model_copy(update={"image": image, "label_set": dataset.label_set.name})


def location_loss(section: LossSection) -> Loss:
    """Return the loss of a recipe on locations: the weighted sum of its losses."""
    gamma = section.gamma
    known: dict[str, Loss] = {
        "focal": partial(focal_loss, gamma=gamma),
        "soft_f1": soft_f1_loss,
        "symmetric_focal": partial(symmetric_focal_loss, gamma=gamma),
        "cross_entropy": cross_entropy_loss,
        "generalized_cross_entropy": partial(generalized_cross_entropy_loss, exponent=section.exponent),
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


def build_learner(
    recipe: Recipe,
    network: Network,
    dataset: Dataset,
    split: Split,
    *,
    options: TrainOptions = DEFAULT_OPTIONS,
    processes: Processes = SINGLE,
) -> Learner:
    """Return a network that is ready to train on a fold.

    Args:
        recipe: The complete recipe.
        network: The network with its initial weights.
        dataset: The dataset.
        split: The rows to train on, and the rows of the validation fold.
        options: The custom loss, augmentation and metrics.
        processes: The processes that train together.

    Returns:
        The learner.

    Raises:
        TrainingError: If the recipe needs antibodies, and the dataset does not state them.
    """
    spec = TrainingSpec(
        schedule=Schedule.from_recipe(recipe),
        augmentation=Augmentation.from_recipe(recipe),
        loss=location_loss(recipe.loss) if options.loss is None else options.loss,
        compute=recipe.compute,
        weights=recipe.select.weights,
        seed=recipe.seed,
        custom_augmentation=options.augmentation,
        metrics=options.metrics,
    )
    antibodies = antibody_numbers(dataset, split.train) if recipe.loss.arcface else {}
    channels = recipe.image.channels or dataset.channels
    second = None
    if antibodies:
        features = feature_channels(
            recipe.model.backbone,
            in_channels=len(channels),
            sizes=(recipe.image.size,),
            stages=recipe.model.head == "multi-stage",
        )
        # The initial weights depend on the seed of the recipe only, not on random numbers that were drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            head = AntibodyHead(features[-1], len(antibodies))
        weight, scale, margin = recipe.loss.arcface, recipe.loss.arcface_scale, recipe.loss.arcface_margin

        def antibody_loss(cosines: Tensor, numbers: Tensor) -> Tensor:
            return weight * arcface_loss(cosines, numbers, scale=scale, margin=margin)

        second = SecondTask(head, antibody_loss)
    if recipe.compute.sync_batch_norm and processes.world_size > 1:
        # timm's function supports its own layers. Lightning's would drop the activation in a combined layer.
        convert: Callable[[Any], Any] = partial(convert_sync_batchnorm, process_group=None)
        network = convert(network)
        for module in network.modules():
            if isinstance(module, Stages):
                module.listen()
        second = second and SecondTask(convert(second.head), second.loss)
    fold = FoldData(
        FieldBatches(dataset, split.train, channels=channels, antibodies=antibodies),
        FieldBatches(dataset, split.held_out, channels=channels),
        Sampling.from_recipe(recipe, dataset.label_set),
    )
    return Learner(network, fold, spec, second=second, processes=processes)
