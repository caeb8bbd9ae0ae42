"""What a run starts with: new weights, those of an earlier run, or those of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import Tensor

from cytoloc.errors import TrainingError, WeightsError
from cytoloc.labels import LabelSet
from cytoloc.models.network import Network, build_network
from cytoloc.models.weights import first_convolution
from cytoloc.predict.bundle import builtin_bundle, is_builtin, open_bundle
from cytoloc.predict.runs import learned_from, load_runs, model_spec
from cytoloc.recipe import Recipe
from cytoloc.runs import is_run

RUN: Final = "run:"
BUNDLE: Final = "bundle:"


class Start(NamedTuple):
    """What a run starts with.

    Attributes:
        network: The network, with its first weights.
        started_from: The run whose weights these are: its ``name``, ``trained_on``, the ids of all fields that they
            know, and ``with_head``, false if only its backbone was taken, since it is of another label set. Empty if
            the weights come from elsewhere.
    """

    network: Network
    started_from: dict[str, Any]


class _Earlier(NamedTuple):
    """A network that has learned already, what it sees and predicts, and the ids of all fields that it knows."""

    path: Path
    name: str
    backbone: str
    head: str
    network: Network
    known: frozenset[str]
    channels: tuple[str, ...]
    label_set: LabelSet
    otherwise: str


def first_network(recipe: Recipe, label_set: LabelSet, *, fold: int, held_out: list[str]) -> Start:
    """Return the network that a run starts with, and the run that it comes from.

    Args:
        recipe: Says which, and where its weights come from; resolved.
        label_set: The locations that the network is to learn.
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
        spec = model_spec(recipe, locations=len(label_set))
        return Start(build_network(spec, weights=recipe.model.weights, new_planes=recipe.model.new_planes), {})
    seen = earlier.known.intersection(held_out)
    if seen:
        raise TrainingError(
            f"{earlier.path} was trained on {len(seen)} of the {len(held_out)} fields held out now, e.g. {min(seen)};"
            " their predictions would be too good.",
            hint=earlier.otherwise,
        )
    if (earlier.backbone, earlier.head) != (recipe.model.backbone, recipe.model.head):
        raise WeightsError(
            f"{earlier.path} is of {earlier.backbone} with the head {earlier.head}, not of"
            f" {recipe.model.backbone} with {recipe.model.head}.",
            hint="Change model.backbone and model.head, or model.weights.",
        )
    network = build_network(model_spec(recipe, locations=len(label_set)))
    network.backbone.load_state_dict(_with_channels(earlier, recipe.image.channels))
    same_locations = earlier.label_set.matches(label_set)
    if same_locations:
        network.head.load_state_dict(earlier.network.head.state_dict())
    return Start(network, {"name": earlier.name, "trained_on": sorted(earlier.known), "with_head": same_locations})


def _with_channels(earlier: _Earlier, channels: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights of an earlier backbone with its input planes in the order of ``channels``.

    Raises:
        WeightsError: If the earlier network does not see one of the channels.
    """
    state = dict(earlier.network.backbone.state_dict())
    if tuple(channels) == earlier.channels:
        return state
    missing = [name for name in channels if name not in earlier.channels]
    if missing:
        raise WeightsError(
            f"{earlier.path} sees {', '.join(earlier.channels)}, not {missing[0]}.",
            hint="Choose channels that it sees by image.channels, or other weights by model.weights.",
        )
    weight = first_convolution(earlier.backbone)
    first = next(name for name in state if f".{name}".endswith(f".{weight}"))
    state[first] = state[first][:, [earlier.channels.index(name) for name in channels]]
    return state


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
    bundle = open_bundle(builtin_bundle() if is_builtin(path) else path)
    number = bundle.member_of(fold)
    otherwise = "Start from a bundle of other fields, or each fold from a bundle of its own: bundle:…{fold}….cytoloc."
    spec = bundle.header.spec(number)
    return _Earlier(
        path,
        bundle.header.members[number].name,
        spec.backbone,
        spec.head,
        bundle.network(number),
        bundle.trained_on,
        spec.channels,
        bundle.label_set,
        otherwise,
    )


def _of_run(path: Path) -> _Earlier:
    if not is_run(path):
        raise WeightsError(
            f"{path} is no run to take weights from.", hint="Give a run's folder: model.weights=run:PATH."
        )
    run = load_runs([path])[0]
    otherwise = "Start each fold from the earlier run of the same fold: run:…-fold{fold}."
    model = run.recipe.model
    return _Earlier(
        path,
        run.folder.name,
        model.backbone,
        model.head,
        run.network,
        learned_from(run.header),
        run.recipe.image.channels,
        run.label_set,
        otherwise,
    )
