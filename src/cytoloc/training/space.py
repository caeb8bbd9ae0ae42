"""Search spaces: the recipe keys that tuning changes, and the values that they can take."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cytoloc.errors import SettingsError
from cytoloc.files import existing
from cytoloc.recipes.recipe import Recipe, load_recipe


class Span(BaseModel):
    """Numbers from ``low`` to ``high``.

    Attributes:
        low: The smallest number.
        high: The largest number.
        log: Whether small numbers are as likely as large ones on a logarithmic scale.
        step: The distance of possible numbers; None for any number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    low: int | float
    high: int | float
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None

    @property
    def is_integer(self) -> bool:
        """Whether the numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    @model_validator(mode="after")
    def _is_ordered(self) -> Span:
        if self.low >= self.high:
            raise ValueError("low must be less than high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        return self


Choices = Annotated[list[bool | int | float | str], Field(min_length=2)]
Space = dict[str, Span | Choices]
"""For each key of a recipe, such as ``schedule.learning_rate``, its span or its choices."""

_SPACE: TypeAdapter[Space] = TypeAdapter(Space)


def read_space(source: str | Path | Mapping[str, Any], recipe: Recipe) -> Space:
    """Return a search space, checked against a recipe.

    Args:
        source: A TOML file, or its content. A key of the recipe has a list of choices, or a table with ``low`` and
            ``high``, and optionally ``log = true`` or ``step``.
        recipe: The recipe whose keys are changed.

    Returns:
        The space.

    Raises:
        SettingsError: If the file is invalid, a span or a list is, or there are no keys.
        RecipeError: If the recipe has no such key, or it cannot have a value of the space.

    Examples:
        >>> recipe = load_recipe("quick")
        >>> space = read_space({"schedule": {"epochs": {"low": 2, "high": 8}}, "model.dropout": [0.1, 0.5]}, recipe)
        >>> sorted(space)
        ['model.dropout', 'schedule.epochs']
    """
    if isinstance(source, str | Path):
        try:
            content: Mapping[str, Any] = tomllib.loads(existing(Path(source)).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{source} is not a TOML file: {error}.") from error
    else:
        content = source
    given = dict(_keys(content))
    try:
        space = _SPACE.validate_python(given)
    except ValidationError as error:
        # A value that is neither a valid span nor a valid list has errors as both.
        found = error.errors()
        first = found[-1] if isinstance(given[str(found[0]["loc"][0])], list) else found[0]
        raise SettingsError(
            f"`space` is invalid at {first['loc'][0]}: {first['msg']}.",
            hint='Write for example "schedule.learning_rate" = {low = 1e-4, high = 1e-2, log = true}, or a list.',
        ) from error
    if not space:
        raise SettingsError("`space` has no keys.", hint="Name at least one key of the recipe.")
    for key, values in space.items():
        for value in [values.low, values.high] if isinstance(values, Span) else values:
            load_recipe(recipe, overrides={key: value})
    return space


def _keys(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the keys of nested tables, joined by dots."""
    found: list[tuple[str, Any]] = []
    for name, value in content.items():
        is_section = isinstance(value, Mapping) and "low" not in value and "high" not in value
        found += _keys(value, f"{prefix}{name}.") if is_section else [(f"{prefix}{name}", value)]
    return found
