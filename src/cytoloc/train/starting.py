"""What a run starts with: new weights, those of an earlier run, or those of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

from cytoloc.errors import TrainingError, WeightsError
from cytoloc.models.network import Network
from cytoloc.predict.bundle import box, in_box, read_member
from cytoloc.predict.runs import build_recipe_network, learned_from, load_run
from cytoloc.recipe import Recipe
from cytoloc.runs import is_run

RUN: Final = "run:"
BUNDLE: Final = "bundle:"


class Start(NamedTuple):
    """What a run starts with.

    Attributes:
        network: The network, with its first weights.
        started_from: The run whose weights these are: its ``name``, and ``trained_on``, the ids of all fields that they
            know. Empty if they come from elsewhere.
    """

    network: Network
    started_from: dict[str, Any]


class _Earlier(NamedTuple):
    """A network that has learned already, and the ids of all fields that it knows."""

    path: Path
    name: str
    backbone: str
    head: str
    network: Network
    known: frozenset[str]
    otherwise: str


def first_network(recipe: Recipe, *, fold: int, held_out: list[str]) -> Start:
    """Return the network that a run starts with, and the run that it comes from.

    Args:
        recipe: Says which, and where its weights come from.
        fold: The fold held out; stands for ``{fold}`` in the path of an earlier run or a bundle.
        held_out: Ids of the fields held out.

    Raises:
        RecipeError: If there is no such network.
        WeightsError: If the weights cannot be had, or do not fit.
        FormatError: If they are to come from a bundle that is none, or is damaged.
        TrainingError: If the earlier network, or one that it started from, was trained on fields that are held out now.
    """
    earlier = _earlier(recipe, fold)
    if earlier is None:
        return Start(build_recipe_network(recipe, weights=recipe.model.weights), {})
    seen = earlier.known.intersection(held_out)
    if seen:
        raise TrainingError(
            f"{earlier.path} was trained on {len(seen)} of the {len(held_out)} fields held out now, e.g. {min(seen)};"
            " their scores would be too good.",
            way_out=earlier.otherwise,
        )
    if (earlier.backbone, earlier.head) != (recipe.model.backbone, recipe.model.head):
        raise WeightsError(
            f"{earlier.path} is of {earlier.backbone} with the head {earlier.head}, not of"
            f" {recipe.model.backbone} with {recipe.model.head}.",
            way_out="Change model.backbone and model.head, or model.weights.",
        )
    network = build_recipe_network(recipe, weights="none")
    network.backbone.load_state_dict(earlier.network.backbone.state_dict())
    network.head.load_state_dict(earlier.network.head.state_dict())
    return Start(network, {"name": earlier.name, "trained_on": sorted(earlier.known)})


def earlier_run(recipe: Recipe, fold: int) -> Path | None:
    """Return the folder of the run whose weights a recipe begins with; None if they come from elsewhere."""
    return _place(recipe, fold, RUN)


def _place(recipe: Recipe, fold: int, kind: str) -> Path | None:
    source = recipe.model.weights
    return Path(source.removeprefix(kind).replace("{fold}", str(fold))) if source.startswith(kind) else None


def _earlier(recipe: Recipe, fold: int) -> _Earlier | None:
    """Return the network of the run or of the bundle that a recipe names; None if it names neither."""
    path = earlier_run(recipe, fold)
    if path is not None:
        return _of_run(path)
    path = _place(recipe, fold, BUNDLE)
    if path is None:
        return None
    member, network, known = read_member(box() if in_box(path) else path, fold=fold)
    otherwise = "Start from a bundle of other fields, or each fold from a bundle of its own: bundle:…{fold}….cytoloc."
    return _Earlier(path, member.name, member.backbone, member.head, network, known, otherwise)


def _of_run(path: Path) -> _Earlier:
    if not is_run(path):
        raise WeightsError(
            f"{path} is no run to take weights from.", way_out="Give a run's folder: model.weights=run:PATH."
        )
    network, recipe, facts = load_run(path)
    otherwise = "Start each fold from the earlier run of the same fold: run:…-fold{fold}."
    model = recipe.model
    return _Earlier(path, str(facts["name"]), model.backbone, model.head, network, learned_from(facts), otherwise)
