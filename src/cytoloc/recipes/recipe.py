"""Recipes: all settings of a training run besides its data, as one typed value.

A recipe file (TOML) contains only what differs from the recipe that it ``extends``. Each run stores its complete
recipe. An unknown key is an error that suggests similar keys.
"""

from __future__ import annotations

import csv
import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import tomli_w
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from cytoloc.errors import ArgumentTypeError, RecipeError
from cytoloc.recipes.sections import (
    LOSSES,
    AugmentSection,
    ComputeSection,
    ImageSection,
    LossSection,
    ModelSection,
    SamplingSection,
    ScheduleSection,
    Section,
    SelectSection,
)


class Recipe(Section):
    """A complete recipe. Its defaults are the recipe ``quick``.

    Attributes:
        name: The name. Folders of runs are named after it.
        summary: A description in one line.
        image: Images that the network receives.
        model: The network.
        loss: The loss.
        sampling: Which fields an epoch contains, and in which order.
        augment: Random changes to training images.
        schedule: Length of training and learning rates.
        compute: Arithmetic of training.
        select: Which weights of a run are evaluated and used.
    """

    name: str
    summary: str
    image: ImageSection = ImageSection()
    model: ModelSection = ModelSection()
    loss: LossSection = LossSection()
    sampling: SamplingSection = SamplingSection()
    augment: AugmentSection = AugmentSection()
    schedule: ScheduleSection = ScheduleSection()
    compute: ComputeSection = ComputeSection()
    select: SelectSection = SelectSection()
    seed: int = Field(0, ge=0, lt=2**63)
    """Random seed of the initial weights of the head, the order of fields, augmentation and dropout."""
    label_set: str = ""
    """Label set that the recipe is for: a shipped one, a .csv or .toml file, or the name of another one. Empty: the
    label set of the dataset."""

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError(
                "use letters, digits, '.', '_' and '-', starting with a letter or digit; runs are named so"
            )
        return name

    @model_validator(mode="after")
    def _weights_are_kept(self) -> Self:
        kept = {"ema": self.schedule.ema > 0, "swa": self.schedule.swa_epochs > 0}
        if not kept.get(self.select.weights, True):
            key = "ema" if self.select.weights == "ema" else "swa_epochs"
            raise ValueError(f"select.weights is {self.select.weights!r}, but schedule.{key} is 0")
        if (self.select.checkpoint, self.select.weights) == ("best", "swa"):
            raise ValueError(
                "select.weights is 'swa', which is an average over epochs, but select.checkpoint is 'best'; set it to"
                " 'last'"
            )
        return self


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with cytoloc.

    >>> "quick" in recipe_names()
    True
    """
    return sorted(entry.name.removesuffix(".toml") for entry in _RECIPES.iterdir() if entry.name.endswith(".toml"))


class Published(NamedTuple):
    """Macro F1 values that others published for the model of a recipe; None if not published.

    Attributes:
        cv: Macro F1 on their own validation split.
        public: Macro F1 on the public leaderboard of 2018.
        private: Macro F1 on the private leaderboard of 2018.
    """

    cv: float | None
    public: float | None
    private: float | None


def published_scores() -> dict[str, Published]:
    """Return the published macro F1 values of shipped recipes, by name, in the order of publication.

    >>> published_scores()["densenet121-512"].private
    0.509
    """
    lines = (_RECIPES / "published.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return {
        row["recipe"]: Published(*(float(row[key]) if row[key] else None for key in Published._fields)) for row in rows
    }


def loss_in_words(recipe: Recipe) -> str:
    """Return the weighted terms of the loss of a recipe as text.

    >>> loss_in_words(load_recipe("quick"))
    '0.5 focal + 0.5 soft F1'
    """
    names = {"soft_f1": "soft F1", "macro_f1": "macro F1", "lovasz": "Lovász", "symmetric_lovasz": "symmetric Lovász"}
    names |= {"arcface": "ArcFace", "hard_cross_entropy": "hardest cross-entropy", "cross_entropy": "cross-entropy"}
    names |= {"generalized_cross_entropy": "generalized cross-entropy"}
    weights = {name: getattr(recipe.loss, name) for name in (*LOSSES, "arcface")}
    return " + ".join(
        f"{weight:g} {names.get(name, name.replace('_', ' '))}" for name, weight in weights.items() if weight
    )


def load_recipe(name: str | Path | Recipe, *, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Load a recipe, with the recipes that it extends and with overrides.

    Args:
        name: Name of a shipped recipe, path of a ``.toml`` file, or a recipe. If a file extends another file, its path
            is relative to the first file.
        overrides: Keys to change, as ``["schedule.epochs=3"]`` (values are TOML or plain text) or as
            ``{"schedule.epochs": 3}``.

    Returns:
        The complete recipe.

    Raises:
        RecipeError: If the recipe is unknown, or a key or value is invalid.
        ArgumentTypeError: If an argument has the wrong type.

    >>> load_recipe("quick", overrides=["image.size=128"]).image.size
    128
    >>> load_recipe("quick", overrides={"image.size": 128}).image.size
    128
    """
    if isinstance(overrides, Mapping):
        overrides = [
            f"{key}={tomli_w.dumps({'value': value}).partition('=')[2].strip()}" for key, value in flat(overrides)
        ]
    if isinstance(overrides, str) or not all(isinstance(line, str) for line in overrides):
        raise ArgumentTypeError(
            f"`overrides` must be a list of lines or a mapping, not {overrides!r}.",
            hint='Give ["section.key=value"] or {"section.key": value}.',
        )
    if isinstance(name, Recipe):
        content, where = name.model_dump(mode="json"), name.name
    elif isinstance(name, (str, Path)):
        content, where = _resolve(str(name), folder=Path(), seen=()), str(name)
    else:
        raise ArgumentTypeError(
            f"`recipe` must be a name, a path or a Recipe, not {type(name).__name__}.",
            hint="See recipe_names() for the names.",
        )
    for override in overrides:
        key, sign, text = override.partition("=")
        path = key.strip().split(".")
        if not sign or not all(path):
            raise RecipeError(
                f"{override!r} is not a setting of the form section.key=value.", hint="Write --set section.key=value."
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        section = content
        for part in path[:-1]:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise RecipeError(f"{key}: {part} is a value, not a section.", hint="See `cytoloc recipes quick`.")
        section[path[-1]] = value
    return _validated(content, where=where)


def flat(values: Mapping[str, Any], *, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, with keys such as ``section.key``.

    >>> dict(flat({"schedule": {"epochs": 3}, "seed": 1}))
    {'schedule.epochs': 3, 'seed': 1}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, above=f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def read_resolved(path: Path) -> Recipe:
    """Read the complete recipe of a run, without any defaults of this release.

    Args:
        path: The recipe file.

    Returns:
        The recipe.

    Raises:
        RecipeError: If the file is not a complete recipe.
    """
    recipe = _validated(_parse(path), where=str(path))
    missing = []
    for key in _all_keys():
        name, _, inner = key.partition(".")
        section: BaseModel = getattr(recipe, name) if inner else recipe
        if (inner or name) not in section.model_fields_set:
            missing.append(key)
    if missing:
        raise RecipeError(
            f"{path} is not a complete recipe: it lacks {', '.join(missing)}.", hint="Train the run again."
        )
    return recipe


def to_toml(recipe: Recipe) -> str:
    """Return a complete recipe as TOML, with all keys."""
    return tomli_w.dumps(recipe.model_dump(mode="json"))


_RECIPES: Final = files("cytoloc") / "recipes"
"""The folder of the shipped recipes."""


def _resolve(name: str, *, folder: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of a recipe file, merged into the recipe that it extends; paths are relative to ``folder``."""
    path = folder / name
    if name.endswith(".toml"):
        name = str(path.resolve())
    if name in seen:
        raise RecipeError(
            f"Recipe {name} extends itself: {' -> '.join([*seen, name])}.", hint="Change `extends` in one of them."
        )
    if name.endswith(".toml"):
        content = _parse(path)
    elif name in recipe_names():
        content = _parse(_RECIPES / f"{name}.toml")
    else:
        raise RecipeError(
            f"There is no recipe {name!r}.{_near(name, recipe_names())}",
            hint=f"Choose one of {', '.join(recipe_names())}, or give the path of a .toml file.",
        )
    base = content.pop("extends", None)
    if base is None:
        return content
    return _merged(_resolve(str(base), folder=path.parent, seen=(*seen, name)), content)


def _parse(path: Any) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"The recipe file {path} does not exist.", hint="See `cytoloc recipes`.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} cannot be read as TOML: {error}.", hint="Fix the file.") from error


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _validated(content: dict[str, Any], *, where: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        problems: dict[str, None] = {}
        for problem in error.errors():
            path = [str(part) for part in problem["loc"] if part != "[key]"]
            key, kind, given = ".".join(path), problem["type"], problem["input"]
            message = problem["msg"].removeprefix("Value error, ")
            if kind == "extra_forbidden":
                level = [known for known in _all_keys() if known.count(".") == key.count(".")]
                text = f"there is no key {key!r}.{_near(key, level)}"
            elif kind == "model_type":
                text = f"{key} is a section, not a value; write {key}.KEY = {given!r}."
            elif kind == "missing" and isinstance(problem["loc"][-1], int):
                text = f"{'.'.join(path[:-1])} = {given!r} has too few values."
            elif kind == "missing":
                text = f"{key} is missing; add `extends` to take all other keys from another recipe."
            elif isinstance(given, dict):
                text = f"{key or 'the recipe'} is inconsistent: {message}."
            else:
                text = f"{key} = {given!r}: {message[0].lower()}{message[1:]}."
            problems[text] = None
        raise RecipeError(
            f"Recipe {where}: " + " ".join(problems), hint="See `cytoloc recipes quick` for all keys and values."
        ) from error


def _all_keys() -> list[str]:
    keys = []
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
        keys += [name, *(f"{name}.{key}" for key in inner)]
    return keys


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""
