"""Finished runs: their networks, their recipes, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cytoloc.errors import FormatError, first_line
from cytoloc.models.network import Network, build_network
from cytoloc.recipe import Recipe, read_resolved
from cytoloc.runs import RECIPE, read_header, refuse_unfinished


def learned_from(facts: Mapping[str, Any]) -> frozenset[str]:
    """Return ids of all fields that a run's weights know: its own, and those of the runs that they came from.

    Args:
        facts: What its ``run.json`` says.
    """
    return frozenset(facts["trained_on"]).union(facts.get("started_from", {}).get("trained_on", ()))


def load_network(checkpoint: Path, recipe: Recipe) -> Network:
    """Return the network of a recipe with the weights in a Lightning checkpoint that the recipe selects.

    Raises:
        FormatError: If the checkpoint is missing, damaged, or of another network.
    """
    network = build_recipe_network(recipe, weights="none")
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
            way_out="Train the run again.",
        ) from error
    return network


def build_recipe_network(recipe: Recipe, *, weights: str) -> Network:
    """Return the network that a recipe describes, its backbone with the given weights and its head at random.

    Raises:
        RecipeError: If there is no such network, or it cannot take pictures of the sizes that it is to see.
        WeightsError: If the weights cannot be had.
    """
    return build_network(
        recipe.model.backbone,
        weights=weights,
        head=recipe.model.head,
        dropout=recipe.model.dropout,
        prior=recipe.model.prior,
        mean=recipe.image.mean,
        std=recipe.image.std,
        size=recipe.image.size,
        # A network may not take every size that it meets.
        other_sizes=(*recipe.image.progressive, recipe.image.field_px),
        new_planes=recipe.model.new_planes,
        each=recipe.image.normalise == "field",
    )


def load_run(folder: Path) -> tuple[Network, Recipe, dict[str, Any]]:
    """Return the network of a finished run, its recipe and what its ``run.json`` says, with its name and recipe's.

    Raises:
        FormatError: If there is no finished run, or it is damaged.
    """
    folder = folder.resolve()
    header = read_header(folder)
    refuse_unfinished([folder])
    recipe = read_resolved(folder / RECIPE)
    network = load_network(folder / f"{recipe.select.checkpoint}.ckpt", recipe)
    return network, recipe, {"name": folder.name, "recipe": recipe.name, **header}
