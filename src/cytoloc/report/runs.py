"""What the folders of runs say without their networks: recipe, fold, held-out scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cytoloc.errors import FormatError, TableError
from cytoloc.files import read_json
from cytoloc.recipe import Recipe, read_resolved
from cytoloc.scores import Scores, read_scores

RUN_KIND: Final = "cytoloc-run"
"""As :mod:`cytoloc.predict.runs` has it, which needs torch."""
RUN_VERSION: Final = 1


@dataclass(frozen=True)
class FinishedRun:
    """One recipe on one fold.

    Attributes:
        folder: Where it lies.
        recipe: What was trained.
        fold: Which was held out.
        atlas: Folder or URL of the fields.
        fingerprint: Of that atlas when the run was trained.
        scores: Of the held-out fold.
    """

    folder: Path
    recipe: Recipe
    fold: int
    atlas: str
    fingerprint: str
    scores: Scores


@dataclass(frozen=True)
class LeftOut:
    """A run that cannot be reported.

    Attributes:
        folder: Where it lies.
        reason: Why.
    """

    folder: Path
    reason: str


def read_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[LeftOut]]:
    """Return the finished runs among ``paths``, and those that are not.

    Args:
        paths: Folders of a run each, or of runs.

    Raises:
        TableError: If a folder holds no run, or a run was given twice.
        FormatError: If a run is damaged.
        RecipeError: If its recipe is not a whole one.
    """
    folders: list[Path] = []
    for path in paths:
        inside = [path] if (path / "run.json").exists() else sorted(file.parent for file in path.glob("*/run.json"))
        if not inside:
            raise TableError(f"{path} holds no run.", way_out="Give run folders, or the --out of `cytoloc train`.")
        folders += inside
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise TableError("A run was given twice.", way_out="Give each once.")
    finished = [folder for folder in folders if (folder / "scores.parquet").exists()]
    unfinished = [
        LeftOut(folder, "not finished; go on with `cytoloc train … --resume`")
        for folder in folders
        if folder not in finished
    ]
    return [_read_run(folder) for folder in finished], unfinished


def _read_run(folder: Path) -> FinishedRun:
    header = read_json(folder / "run.json", kind=RUN_KIND, version=RUN_VERSION)
    atlas, held_out, fold = header.get("atlas"), header.get("held_out"), header.get("fold")
    if not (
        isinstance(held_out, list)
        and isinstance(fold, int)
        and isinstance(atlas, dict)
        and {"path", "fingerprint"} <= atlas.keys()
    ):
        raise FormatError(f"{folder / 'run.json'} is damaged: it lacks its atlas or fold.", way_out="Train it again.")
    scores = read_scores(folder / "scores.parquet")
    if set(scores.ids) != set(held_out):
        raise FormatError(
            f"{folder / 'scores.parquet'} has scores of other fields than the run held out.", way_out="Train it again."
        )
    recipe = read_resolved(folder / "recipe.toml")
    return FinishedRun(folder, recipe, fold, str(atlas["path"]), str(atlas["fingerprint"]), scores)
