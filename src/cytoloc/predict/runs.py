"""Finished runs: their networks, their recipes, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cytoloc.channels import CHANNELS
from cytoloc.errors import FormatError, RecipeError, SettingsError, first_line
from cytoloc.labels import LabelSet
from cytoloc.models.network import ModelSpec, Network, build_network
from cytoloc.recipe import Recipe, read_resolved
from cytoloc.runs import RECIPE, read_header, refuse_unfinished


def learned_from(facts: Mapping[str, Any]) -> frozenset[str]:
    """Return ids of all fields that a run's weights know: its own, and those of the runs that they came from.

    Args:
        facts: What its ``run.json`` says.
    """
    return frozenset(facts["trained_on"]).union(facts.get("started_from", {}).get("trained_on", ()))


def load_network(checkpoint: Path, recipe: Recipe, *, locations: int) -> Network:
    """Return the network of a recipe with the weights in a Lightning checkpoint that the recipe selects.

    Raises:
        FormatError: If the checkpoint is missing, damaged, or of another network.
    """
    network = build_network(model_spec(recipe, locations=locations))
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if recipe.select.weights == "plain":
            prefix = "network."
            state = {
                name.removeprefix(prefix): value
                for name, value in content["state_dict"].items()
                if name.startswith(prefix)
            }
        else:
            state = content["averages"][recipe.select.weights]
        network.load_state_dict(state)
    # A broken archive surfaces as any of several exceptions of pickle, zip and torch.
    except Exception as error:
        raise FormatError(
            f"{checkpoint} cannot be loaded: {first_line(error)}",
            hint="Train the run again.",
        ) from error
    return network


def model_spec(recipe: Recipe, *, locations: int) -> ModelSpec:
    """Return what network a recipe describes.

    Args:
        recipe: A resolved one names its channels; others see the four of the Human Protein Atlas.
        locations: Number of locations.

    Raises:
        RecipeError: If mean or standard deviation of a channel are not known.
    """
    image, channels = recipe.image, recipe.image.channels or CHANNELS
    lacking = [name for name in channels if name not in image.mean or name not in image.std]
    if lacking:
        raise RecipeError(
            f"Recipe {recipe.name} has no mean or standard deviation of the channel {lacking[0]}.",
            hint=f"Set image.mean and image.std of {lacking[0]}, or train on a dataset, which measures them.",
        )
    return ModelSpec(
        backbone=recipe.model.backbone,
        head=recipe.model.head,
        dropout=recipe.model.dropout,
        prior=recipe.model.prior,
        locations=locations,
        channels=tuple(channels),
        mean=tuple(image.mean[name] for name in channels),
        std=tuple(image.std[name] for name in channels),
        each=image.normalize == "field",
        size=image.size,
        # A network may not take every size that it meets.
        other_sizes=(*image.progressive, image.field_px),
    )


def refuse_different_runs(folders: Sequence[Path], runs: Sequence[tuple[Network, Recipe, dict[str, Any]]]) -> LabelSet:
    """Return the label set of runs that can be averaged.

    Args:
        folders: Where they are.
        runs: What :func:`load_run` returned for each.

    Raises:
        LabelSetError: If they differ in their label set.
        SettingsError: If they differ in image size, channels or views.
    """
    label_set: LabelSet = runs[0][2]["label_set"]
    for folder, (_, recipe, facts) in zip(folders[1:], runs[1:], strict=True):
        label_set.refuse_other(facts["label_set"], what=str(folder), than=str(folders[0]))
        first = runs[0][1]
        for name, one, other in (
            ("image size", first.image.field_px, recipe.image.field_px),
            ("channels", first.image.channels, recipe.image.channels),
            ("tta", first.select.tta, recipe.select.tta),
        ):
            if one != other:
                raise SettingsError(
                    f"{folders[0]} and {folder} differ in their {name}: {one} and {other}.",
                    hint="Predict with each, and average the predictions.",
                )
    return label_set


def load_run(folder: Path) -> tuple[Network, Recipe, dict[str, Any]]:
    """Return the network of a finished run, its recipe and what its ``run.json`` says, with its name and recipe's.

    The label set is in ``["label_set"]`` of what it says, as a :class:`~cytoloc.labels.LabelSet`.

    Raises:
        FormatError: If there is no finished run, or it is damaged.
    """
    folder = folder.resolve()
    header = read_header(folder)
    refuse_unfinished([folder])
    recipe = read_resolved(folder / RECIPE)
    locations = len(header["label_set"])
    network = load_network(folder / f"{recipe.select.checkpoint}.ckpt", recipe, locations=locations)
    return network, recipe, {"name": folder.name, "recipe": recipe.name, **header}
