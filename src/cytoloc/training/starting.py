"""The initial network of a run: new, or with the weights of an earlier run or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from cytoloc.errors import TrainingError, WeightsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import Network, build_network
from cytoloc.models.weights import first_convolution
from cytoloc.predict.bundle import builtin_bundle, is_builtin, open_bundle
from cytoloc.predict.runs import learned_from, load_runs, model_spec
from cytoloc.recipes.recipe import Recipe
from cytoloc.runs import is_run

RUN: Final = "run:"
BUNDLE: Final = "bundle:"


class Start(NamedTuple):
    """The initial network of a run.

    Attributes:
        network: The network, with its initial weights.
        started_from: The run that the weights come from: its ``name``; the ids of all fields that the weights were
            ``trained_on``; and ``with_head``, which is false if only the backbone was used because label sets differ.
            Empty if the weights do not come from a run.
    """

    network: Network
    started_from: dict[str, Any]


class _TrainedNetwork(NamedTuple):
    """A trained network, its inputs and outputs, and the ids of all fields that it was trained on."""

    name: str
    network: Network
    backbone: str
    head: str
    channels: tuple[str, ...]
    label_set: LabelSet
    trained_on: frozenset[str]
    hint: str

    @classmethod
    def of_bundle(cls, path: Path, fold: int) -> Self:
        bundle = open_bundle(builtin_bundle() if is_builtin(path) else path)
        number = bundle.member_of(fold)
        member = bundle.header.members[number]
        return cls(
            member.name,
            bundle.network(number),
            member.backbone,
            member.head,
            tuple(bundle.header.channels),
            bundle.label_set,
            bundle.trained_on,
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
            run.recipe.image.channels,
            run.label_set,
            learned_from(run.header),
            "Start each fold from the earlier run of the same fold: run:…-fold{fold}.",
        )


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
    path, kind = earlier_run(recipe, fold), RUN
    if path is None and recipe.model.weights.startswith(BUNDLE):
        path, kind = Path(recipe.model.weights.removeprefix(BUNDLE).replace("{fold}", str(fold))), BUNDLE
    if path is None:
        return Start(build_network(spec, weights=recipe.model.weights, new_planes=recipe.model.new_planes), {})
    earlier = _TrainedNetwork.of_run(path) if kind == RUN else _TrainedNetwork.of_bundle(path, fold)
    seen = earlier.trained_on.intersection(held_out)
    if seen:
        raise TrainingError(
            f"{path} was trained on {len(seen)} of the {len(held_out)} fields of the validation fold, such as"
            f" {min(seen)}, so the metrics would be biased.",
            hint=earlier.hint,
        )
    if (earlier.backbone, earlier.head) != (spec.backbone, spec.head):
        raise WeightsError(
            f"{path} has the network {earlier.backbone} with the head {earlier.head}, not {spec.backbone} with"
            f" {spec.head}.",
            hint="Change model.backbone and model.head, or model.weights.",
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
    network.backbone.load_state_dict(state)
    same_locations = earlier.label_set.matches(label_set)
    if same_locations:
        network.head.load_state_dict(earlier.network.head.state_dict())
    started_from = {"name": earlier.name, "trained_on": sorted(earlier.trained_on), "with_head": same_locations}
    return Start(network, started_from)


def earlier_run(recipe: Recipe, fold: int) -> Path | None:
    """Return the folder of the run whose weights a recipe starts with; None if they do not come from a run."""
    source = recipe.model.weights
    return Path(source.removeprefix(RUN).replace("{fold}", str(fold))) if source.startswith(RUN) else None
