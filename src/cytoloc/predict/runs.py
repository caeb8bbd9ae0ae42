"""Reading of finished runs: their networks, recipes and headers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cytoloc.channels import CHANNELS
from cytoloc.choices import Resample
from cytoloc.errors import FormatError, RecipeError, SettingsError, first_line
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import ModelSpec, Network, build_network
from cytoloc.predict.model_info import ModelInfo
from cytoloc.recipes.recipe import Recipe, read_resolved
from cytoloc.runs import RECIPE, find_runs, read_header, refuse_unfinished


def learned_from(facts: Mapping[str, Any]) -> frozenset[str]:
    """Return the ids of all fields that the weights of a run were trained on, including runs that it started from."""
    return frozenset(facts["trained_on"]).union(facts.get("started_from", {}).get("trained_on", ()))


def learned_from_datasets(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the public datasets that the weights, from which a run started, were trained on as a whole."""
    return tuple(facts.get("started_from", {}).get("trained_on_datasets", ()))


def load_network(checkpoint: Path, recipe: Recipe, *, locations: int) -> Network:
    """Load the network of a recipe, with the weights of a Lightning checkpoint that the recipe selects.

    Args:
        checkpoint: The checkpoint file.
        recipe: The complete recipe.
        locations: The number of locations.

    Returns:
        The network.

    Raises:
        FormatError: If the checkpoint is missing or damaged, or belongs to another network.
    """
    network = build_network(model_spec(recipe, locations=locations))
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if recipe.select.weights == "plain":
            named = ((name.partition("network."), value) for name, value in content["state_dict"].items())
            state = {name: value for (before, prefix, name), value in named if prefix and not before}
        else:
            state = content["averages"][recipe.select.weights]
        network.load_state_dict(state)
    # A damaged archive raises different exceptions of pickle, zip and torch.
    except Exception as error:
        raise FormatError(
            f"{checkpoint} cannot be loaded: {first_line(error)}.", hint="Train the run again."
        ) from error
    return network


def model_spec(recipe: Recipe, *, locations: int) -> ModelSpec:
    """Return the specification of the network of a recipe.

    Args:
        recipe: The recipe. Without channels, the four channels of the Human Protein Atlas are used.
        locations: The number of locations.

    Returns:
        The specification.

    Raises:
        RecipeError: If the mean or standard deviation of a channel is unknown.
    """
    image, channels = recipe.image, recipe.image.channels or CHANNELS
    lacking = [name for name in channels if name not in image.mean or name not in image.std]
    if lacking:
        raise RecipeError(
            f"Recipe {recipe.name} has no mean or standard deviation for the channel {lacking[0]}.",
            hint=f"Set image.mean and image.std for {lacking[0]}, or train on a dataset, which measures them.",
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
        # Some networks do not accept all image sizes.
        other_sizes=(*image.progressive, image.field_px),
        units=recipe.model.units,
        variant=recipe.model.variant,
    )


class LoadedRun(NamedTuple):
    """A finished run.

    Attributes:
        folder: The folder of the run.
        network: The network, with the weights that the recipe selects.
        recipe: The complete recipe.
        header: The content of ``run.json``.
        label_set: The locations that the network predicts.
    """

    folder: Path
    network: Network
    recipe: Recipe
    header: dict[str, Any]
    label_set: LabelSet

    @property
    def resample(self) -> Resample | None:
        """How the images that the run was trained on were scaled down; None if it is unknown."""
        found: Resample | None = self.header["dataset"].get("resample")
        return found

    @property
    def source(self) -> dict[str, Any]:
        """The facts about the run for the provenance of predictions."""
        return {
            "name": self.folder.name,
            "recipe": self.recipe.name,
            **{key: self.header[key] for key in ("fold", "dataset")},
        }


def load_runs(folders: Sequence[Path]) -> list[LoadedRun]:
    """Load finished runs whose probabilities can be averaged.

    Args:
        folders: The folders of the runs.

    Returns:
        The runs.

    Raises:
        FormatError: If a folder is not a finished run, or is damaged.
        LabelSetError: If the runs have different label sets.
        SettingsError: If the runs differ in image size, channels or test-time augmentation.
    """
    refuse_unfinished(folders)
    loaded: list[LoadedRun] = []
    for folder in (each.resolve() for each in folders):
        header = read_header(folder)
        recipe, label_set = read_resolved(folder / RECIPE), header["label_set"]
        network = load_network(folder / f"{recipe.select.checkpoint}.ckpt", recipe, locations=len(label_set))
        run = LoadedRun(folder, network, recipe, header, label_set)
        for first in loaded[:1]:
            first.label_set.refuse_other(label_set, what=str(folder), than=str(first.folder))
            for name, one, other in (
                ("image size", first.recipe.image.field_px, recipe.image.field_px),
                ("channels", first.recipe.image.channels, recipe.image.channels),
                ("TTA views", first.recipe.select.tta, recipe.select.tta),
            ):
                if one != other:
                    raise SettingsError(
                        f"{first.folder} and {folder} differ in their {name}: {one} and {other}.",
                        hint="Predict with each run, and average the predictions.",
                    )
        loaded.append(run)
    return loaded


def read_runs(folder: Path) -> tuple[ModelInfo, list[Network], None]:
    """Read the model that a run, or all runs in a folder, form.

    Args:
        folder: A run, or a folder of runs.

    Returns:
        The properties of the model, its networks, and None instead of a decision.

    Raises:
        FormatError, LabelSetError, SettingsError: For the reasons of :func:`load_runs`.
    """
    runs = load_runs(find_runs([folder]))
    return model_info(runs, provenance={"runs": [run.source for run in runs]}), [run.network for run in runs], None


def model_info(runs: Sequence[LoadedRun], *, provenance: dict[str, Any]) -> ModelInfo:
    """Return the properties of the model that averages several runs."""
    recipe = runs[0].recipe
    resampled = {run.resample for run in runs}
    return ModelInfo(
        size=recipe.image.field_px,
        channels=tuple(recipe.image.channels),
        label_set=runs[0].label_set,
        tta=recipe.select.tta,
        provenance=provenance,
        trained_on=frozenset().union(*(learned_from(run.header) for run in runs)),
        trained_on_datasets=tuple(dict.fromkeys(name for run in runs for name in learned_from_datasets(run.header))),
        resample=resampled.pop() if len(resampled) == 1 else None,
    )
