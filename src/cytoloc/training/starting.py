"""The initial network of a run: new, or with the weights of an earlier run or a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

import torch

from cytoloc.errors import TrainingError, WeightsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import Network, NormalizeEach, build_network
from cytoloc.models.weights import first_convolution
from cytoloc.predict.bundle import bundle_path, open_bundle
from cytoloc.predict.runs import learned_from, learned_from_datasets, load_runs, model_spec
from cytoloc.recipes.recipe import Recipe, load_recipe, read_resolved
from cytoloc.runs import RECIPE, is_run

RUN: Final = "run:"
BUNDLE: Final = "bundle:"

_ARCHITECTURE: Final = ("backbone", "head", "units", "variant")
"""The keys of a recipe that decide which weights fit."""

_SAME_GRAY: Final = 0.01
"""Difference of means or standard deviations, in gray values of 255, that rounding explains."""


class Start(NamedTuple):
    """The initial network of a run.

    Attributes:
        network: The network, with its initial weights.
        started_from: The run that the weights come from, by its ``name``. ``trained_on`` has the ids of all fields that
            the weights were trained on. ``trained_on_datasets`` has the public datasets that they were trained on as a
            whole, if there are any. ``with_head`` is false if only the backbone was used because label sets differ.
            Empty if the weights do not come from a run.
    """

    network: Network
    started_from: dict[str, Any]


class _TrainedNetwork(NamedTuple):
    """A trained network, its inputs and outputs, and the fields and whole datasets that it was trained on."""

    name: str
    network: Network
    backbone: str
    head: str
    units: int
    variant: str
    channels: tuple[str, ...]
    label_set: LabelSet
    trained_on: frozenset[str]
    trained_on_datasets: tuple[str, ...]
    hint: str

    @classmethod
    def of(cls, recipe: Recipe, path: Path, fold: int) -> Self:
        """Return the network that the weights of a recipe come from."""
        return cls.of_run(path) if recipe.model.weights.startswith(RUN) else cls.of_bundle(path, fold)

    @classmethod
    def of_bundle(cls, path: Path, fold: int) -> Self:
        bundle = open_bundle(bundle_path(path))
        number = bundle.member_of(fold)
        member = bundle.header.members[number]
        return cls(
            member.name,
            bundle.network(number),
            member.backbone,
            member.head,
            member.units,
            member.variant,
            tuple(bundle.header.channels),
            bundle.label_set,
            bundle.trained_on,
            tuple(bundle.header.trained_on_datasets),
            "Use a bundle that was trained on other fields, or a bundle for each fold: bundle:…{fold}….cytoloc.",
        )

    @classmethod
    def of_run(cls, path: Path) -> Self:
        if not is_run(path):
            raise WeightsError(
                f"{path} is not a run, so it has no weights.", hint="Give the folder of a run: model.weights=run:PATH."
            )
        run = load_runs([path])[0]
        return cls(
            run.folder.name,
            run.network,
            run.recipe.model.backbone,
            run.recipe.model.head,
            run.recipe.model.units,
            run.recipe.model.variant,
            run.recipe.image.channels,
            run.label_set,
            learned_from(run.header),
            learned_from_datasets(run.header),
            "Start each fold from the earlier run of the same fold: run:…-fold{fold}.",
        )

    def normalizes_like(self, network: Network, channels: Sequence[str]) -> bool:
        """Return whether it normalizes some channels as another network does, which sees these channels alone."""
        own, other = self.network.normalize, network.normalize
        if isinstance(own, NormalizeEach) or isinstance(other, NormalizeEach):
            return type(own) is type(other)
        places = [self.channels.index(name) for name in channels]
        return torch.allclose(own.mean[:, places], other.mean, atol=_SAME_GRAY) and torch.allclose(
            own.std[:, places], other.std, atol=_SAME_GRAY
        )


def inherit_settings(
    recipe: Recipe, *, fold: int, folder: Path, planned: Mapping[Path, Recipe] = MappingProxyType({})
) -> Recipe:
    """Return a recipe with the network and the normalization of the weights that it starts from, if it inherits them.

    Args:
        recipe: The resolved recipe.
        fold: The validation fold. It replaces ``{fold}`` in the path of an earlier run or a bundle.
        folder: The folder of the run. If the run was started before, its own recipe has the settings.
        planned: The recipes of runs that will be finished when this run starts, by their resolved folders.

    Returns:
        The recipe with the settings.

    Raises:
        WeightsError: If the weights do not exist.
        FormatError: If a bundle is damaged, or the file is not a bundle.
    """
    path = _earlier_path(recipe, fold)
    if not recipe.model.inherit or path is None:
        return recipe
    if is_run(folder) or path.resolve() in planned:
        source = read_resolved(folder / RECIPE) if is_run(folder) else planned[path.resolve()]
        image, model = source.image, source.model
        settings: dict[str, dict[str, Any]] = {
            "model": model.model_dump(include={*_ARCHITECTURE}),
            "image": {"normalize": image.normalize, "mean": image.mean, "std": image.std},
        }
    else:
        earlier = _TrainedNetwork.of(recipe, path, fold)
        own = earlier.network.normalize
        mean, std = (
            dict(zip(earlier.channels, (each.flatten() / 255).tolist(), strict=True)) for each in (own.mean, own.std)
        )
        settings = {
            "model": {name: getattr(earlier, name) for name in _ARCHITECTURE},
            "image": {
                "normalize": "field" if isinstance(own, NormalizeEach) else "set",
                "mean": recipe.image.mean | mean,
                "std": recipe.image.std | std,
            },
        }
    return load_recipe(recipe, overrides=settings)


def first_network(recipe: Recipe, label_set: LabelSet, *, fold: int, held_out: list[str]) -> Start:
    """Return the initial network of a run, and the run that its weights come from.

    Args:
        recipe: The complete recipe.
        label_set: The locations that the network predicts.
        fold: The validation fold, which replaces ``{fold}`` in the path of an earlier run or a bundle.
        held_out: The ids of the fields of the validation fold.

    Returns:
        The network and its origin.

    Raises:
        RecipeError: If the network does not exist.
        WeightsError: If the weights are missing, or do not match the network.
        FormatError: If a bundle is damaged, or is not a bundle.
        TrainingError: If the earlier network, or one that it started from, was trained on fields of the validation
            fold.
    """
    spec = model_spec(recipe, locations=len(label_set))
    path = _earlier_path(recipe, fold)
    if path is None:
        return Start(build_network(spec, weights=recipe.model.weights, new_planes=recipe.model.new_planes), {})
    earlier = _TrainedNetwork.of(recipe, path, fold)
    seen = earlier.trained_on.intersection(held_out)
    if seen:
        raise TrainingError(
            f"{path} was trained on {len(seen)} of the {len(held_out)} fields of the validation fold, such as"
            f" {min(seen)}, so the metrics would be biased.",
            hint=earlier.hint,
        )
    if any(getattr(earlier, name) != getattr(spec, name) for name in _ARCHITECTURE):
        have, want = (", ".join(f"{name} {getattr(each, name)}" for name in _ARCHITECTURE) for each in (earlier, spec))
        raise WeightsError(
            f"{path} has a network with {have}, but the recipe has {want}.",
            hint="Set model.inherit=true to use its network, or choose other weights with model.weights.",
        )
    state = dict(earlier.network.backbone.state_dict())
    if spec.channels != earlier.channels:
        missing = [name for name in spec.channels if name not in earlier.channels]
        if missing:
            raise WeightsError(
                f"{path} has the channels {', '.join(earlier.channels)}, but not {missing[0]}.",
                hint="Choose other channels with image.channels, or other weights with model.weights.",
            )
        weight = first_convolution(spec.backbone)
        first = next(name for name in state if f".{name}".endswith(f".{weight}"))
        state[first] = state[first][:, [earlier.channels.index(name) for name in spec.channels]]
    network = build_network(spec)
    if not earlier.normalizes_like(network, spec.channels):
        raise WeightsError(
            f"The network of {path} was trained on images that were normalized in another way: its weights expect other"
            " values.",
            hint="Set model.inherit=true to normalize images as that network does, or choose other weights by"
            " model.weights.",
        )
    network.backbone.load_state_dict(state)
    same_locations = earlier.label_set.matches(label_set)
    if same_locations:
        network.head.load_state_dict(earlier.network.head.state_dict())
    datasets = {"trained_on_datasets": list(earlier.trained_on_datasets)} if earlier.trained_on_datasets else {}
    started_from = {
        "name": earlier.name,
        "trained_on": sorted(earlier.trained_on),
        **datasets,
        "with_head": same_locations,
    }
    return Start(network, started_from)


def _earlier_path(recipe: Recipe, fold: int) -> Path | None:
    """Return the run or bundle that the weights of a recipe come from; None if they come from elsewhere."""
    kind, _, name = recipe.model.weights.partition(":")
    return Path(name.replace("{fold}", str(fold))) if f"{kind}:" in (RUN, BUNDLE) else None


def earlier_run(recipe: Recipe, fold: int) -> Path | None:
    """Return the folder of the run whose weights a recipe starts with; None if they do not come from a run."""
    return _earlier_path(recipe, fold) if recipe.model.weights.startswith(RUN) else None
