"""The tables of a reproduction: single models and ensembles, with our metrics beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cytoloc.recipes.recipe import Published, Recipe

ENSEMBLE: Final = "ensemble"
FINAL: Final = "final"

PUBLISHED_ENSEMBLES: Final = {ENSEMBLE: Published(0.613, 0.536, 0.515), FINAL: Published(0.636, 0.601, 0.525)}
"""Macro F1 that the author of the silver-medal solution published for the ensemble of three models, and for the final
submission, in which predictions with no location or too many are repaired, and leaked labels are used."""

NOTE: Final = (
    "All values are macro F1. `CV (same fields)` fits thresholds to the fields that it measures, as the published CV"
    " does. `CV (cross-fitted)` measures each field by thresholds that were fitted without it."
)
NOTE_PUBLISHED: Final = "The published values are those of the author of the silver-medal solution."
NOTE_BEST: Final = "Both CV columns are too high, because the best checkpoint was chosen on the same validation fold."


@dataclass(frozen=True)
class Measured:
    """Macro F1 of a submission.

    Attributes:
        in_sample: On held-out fields, with thresholds fitted to the same fields.
        cross_fitted: On held-out fields, with thresholds fitted to other fields.
        test: On the test fields; None if their labels are not known.
    """

    in_sample: float
    cross_fitted: float
    test: float | None = None


def markdown_tables(
    recipes: Sequence[Recipe],
    measured: Mapping[str, Measured],
    published: Mapping[str, Published],
    *,
    names: Mapping[str, str],
    notes: Sequence[str] = (),
) -> str:
    """Return both tables as Markdown that also reads well as text.

    Args:
        recipes: The recipes of the single models, in order.
        measured: Metrics by the name of the recipe, and of :data:`ENSEMBLE` and :data:`FINAL`.
        published: Published metrics by the same names.
        names: The names of :data:`ENSEMBLE` and :data:`FINAL` in the table.
        notes: Further notes below the tables.
    """
    tested = any(each.test is not None for each in measured.values())
    columns = ["CV (same fields)", "CV (cross-fitted)", *(["test"] if tested else [])]
    columns += ["published CV", "public", "private"] if published else []

    def values(name: str) -> list[str]:
        ours, theirs = measured[name], published.get(name, Published(None, None, None))
        numbers = [ours.in_sample, ours.cross_fitted, *([ours.test] if tested else [])]
        numbers += [theirs.cv, theirs.public, theirs.private] if published else []
        return ["-" if number is None else f"{number:.3f}" for number in numbers]

    single = [["model", "image", "batch", *columns]]
    for recipe in recipes:
        batch = recipe.schedule.batch_size * recipe.schedule.accumulate
        single.append([recipe.name, str(recipe.image.size), str(batch), *values(recipe.name)])
    together = [["ensemble", *columns], *([text, *values(name)] for name, text in names.items() if name in measured)]
    below = [NOTE, *([NOTE_PUBLISHED] if published else []), *notes]
    return "\n\n".join([_aligned(single), _aligned(together), " ".join(below)]) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table whose columns are padded; the first row is the heading."""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), rule, *(line(row) for row in rows[1:])])
