"""The folders of runs: which there are, whether they are finished, and what they say of themselves.

What a run holds is written by :mod:`cytoloc.training.run`. Its networks are read by :mod:`cytoloc.predict.runs`, which
needs torch; this does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cytoloc.errors import FormatError, LabelSetError
from cytoloc.files import FileFormat, read_json, refuse_given_twice
from cytoloc.labels import LabelSet

RUN_FORMAT: Final = FileFormat("cytoloc-run", 1)

HEADER: Final = "run.json"
RECIPE: Final = "recipe.toml"
PREDICTIONS: Final = "predictions.parquet"
"""Of the held-out fold; written last, so that a run that has it is finished."""

GO_ON: Final = "Go on with `cytoloc train … --resume`."
_AGAIN: Final = "Train it again."


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, finished or not."""
    return (folder / HEADER).exists()


def is_finished(folder: Path) -> bool:
    """Return whether a run has learnt all that it was to learn."""
    return (folder / PREDICTIONS).exists()


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of all runs in ``paths``, finished or not.

    Args:
        paths: Folders, of a run each or of runs; hidden ones are what killed starts left, and do not count.

    Raises:
        FormatError: If one holds no run.
        SettingsError: If a run is given twice.
    """
    folders: list[Path] = []
    for path in paths:
        inside = [path] if is_run(path) else sorted(file.parent for file in path.glob(f"[!.]*/{HEADER}"))
        if not inside:
            raise FormatError(f"{path} holds no run.", hint="Give run folders, or the --out of `cytoloc train`.")
        folders += inside
    refuse_given_twice(folders)
    return folders


def refuse_unfinished(folders: Iterable[Path]) -> None:
    """Raise :class:`~cytoloc.errors.FormatError` if any of these runs is not finished; names them all."""
    unfinished = [str(folder) for folder in folders if not is_finished(folder)]
    if unfinished:
        are = "is" if len(unfinished) == 1 else "are"
        raise FormatError(f"{', '.join(unfinished)} {are} not finished.", hint=GO_ON)


def read_header(folder: Path) -> dict[str, Any]:
    """Return what a run says of itself: ``fold``, ``dataset``, ``label_set``, the ids ``held_out`` and ``trained_on``.

    Raises:
        FormatError: If the folder is no run, or its header is damaged.
    """
    path = folder / HEADER
    header = read_json(path, RUN_FORMAT)
    dataset = header.get("dataset")
    right = {
        "fold": type(header.get("fold")) is int,
        "dataset": isinstance(dataset, dict) and {"path", "fingerprint"} <= dataset.keys(),
        "held_out": _are_ids(header.get("held_out")),
        "trained_on": _are_ids(header.get("trained_on")),
    }
    missing = [key for key, there in right.items() if not there]
    if missing:
        raise FormatError(f"{path} is damaged: it lacks {', '.join(missing)}.", hint=_AGAIN)
    try:
        return {**header, "label_set": LabelSet.from_json(header.get("label_set"))}
    except LabelSetError as error:
        raise FormatError(f"{path} is damaged: {error.message}", hint=_AGAIN) from error


def _are_ids(said: object) -> bool:
    return isinstance(said, list) and all(isinstance(name, str) for name in said)
