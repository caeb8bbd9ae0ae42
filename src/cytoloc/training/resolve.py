"""A recipe completed by the dataset that it is trained on: channels, their statistics, and the label set."""

from __future__ import annotations

from typing import Final

import numpy as np

from cytoloc.channels import near_channels
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ChannelError, LabelSetError, TrainingError
from cytoloc.labels import SHIPPED, find_label_set
from cytoloc.recipe import Recipe

MEASURED_FIELDS: Final = 256
"""At most this many fields, evenly spaced in the dataset, give the statistics of a channel."""


def resolve_recipe(recipe: Recipe, dataset: Dataset) -> Recipe:
    """Return the recipe with all that the dataset decides written into it.

    ``image.channels`` becomes the dataset's channels unless the recipe names some of them. Mean and standard deviation
    of channels that the recipe does not know are measured on the dataset. ``label_set`` becomes the name of the
    dataset's label set.

    Raises:
        ChannelError: If the recipe names a channel that the dataset lacks.
        LabelSetError: If the recipe is for another label set.
        TrainingError: If the dataset has no fields.
        TableError: If ``sampling.oversample`` names locations that the label set lacks.
    """
    if not len(dataset):
        raise TrainingError(f"{dataset.path} has no fields.", hint="Import some, or finish its import.")
    wanted = recipe.label_set
    if wanted in SHIPPED or wanted.lower().endswith((".csv", ".toml")):
        find_label_set(wanted).refuse_other(dataset.label_set, what=str(dataset.path), than=f"recipe {recipe.name}")
    elif wanted not in ("", dataset.label_set.name):
        raise LabelSetError(
            f"Recipe {recipe.name} is for the label set {recipe.label_set}, but {dataset.path} has"
            f" {dataset.label_set}.",
            hint="Choose another recipe, or leave label_set out of it.",
        )
    for word in recipe.sampling.oversample.get(dataset.label_set.name, {}):
        dataset.label_set.index(word, where=f"Recipe {recipe.name}, sampling.oversample")
    channels = recipe.image.channels or dataset.channels
    missing = [name for name in channels if name not in dataset.channels]
    if missing:
        raise ChannelError(
            f"Recipe {recipe.name} sees the channel {missing[0]}, but {dataset.path} has"
            f" {', '.join(dataset.channels)}.{near_channels(missing[0], dataset.channels)}",
            hint="Leave image.channels out of the recipe to train on the channels that there are.",
        )
    unknown = [name for name in channels if name not in recipe.image.mean or name not in recipe.image.std]
    measured = _statistics(dataset, unknown) if unknown else {}
    image = recipe.image.model_copy(
        update={
            "channels": tuple(channels),
            "mean": {**{name: mean for name, (mean, _) in measured.items()}, **recipe.image.mean},
            "std": {**{name: std for name, (_, std) in measured.items()}, **recipe.image.std},
        }
    )
    return recipe.model_copy(update={"image": image, "label_set": dataset.label_set.name})


def _statistics(dataset: Dataset, channels: list[str]) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of some channels of a dataset, after division by 255.

    Each is rounded to five digits. The standard deviation of a channel without contrast counts as one gray value.
    """
    count = min(MEASURED_FIELDS, len(dataset))
    rows = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(np.int64))
    planes = [dataset.channels.index(name) for name in channels]
    # One field at a time: a batch of large fields would not fit into memory as floats.
    moments = np.mean(
        [
            [(plane.mean(), np.square(plane).mean()) for plane in dataset[int(row)][planes].astype(np.float64) / 255]
            for row in rows
        ],
        axis=0,
    )
    std = np.sqrt(np.maximum(moments[:, 1] - np.square(moments[:, 0]), 1 / 255**2))
    return {
        name: (round(float(mean), 5), round(float(deviation), 5))
        for name, mean, deviation in zip(channels, moments[:, 0], std, strict=True)
    }
