"""The folders of training runs: finding them, and reading their headers.

:mod:`cytoloc.training.run` writes runs. :mod:`cytoloc.predict.runs` reads their networks and needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from cytoloc.errors import FormatError, LabelSetError
from cytoloc.files import FileFormat, existing, read_json, refuse_given_twice
from cytoloc.labels.label_set import LabelSet

RUN_FORMAT: Final = FileFormat("cytoloc-run", 1, "run of `cytoloc train`")

HEADER: Final = "run.json"
RECIPE: Final = "recipe.toml"
PREDICTIONS: Final = "predictions.parquet"
"""The out-of-fold predictions of a run. They are written last, so a run that has this file is finished."""

_TRAIN_AGAIN: Final = "Train the run again."


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run, finished or not."""
    return (folder / HEADER).exists()


def is_finished(folder: Path) -> bool:
    """Return whether a run is finished."""
    return (folder / PREDICTIONS).exists()


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Return the folders of all runs in some paths, finished or not.

    Args:
        paths: Runs, or folders of runs. Hidden folders are ignored, because interrupted starts leave some.

    Returns:
        The folders of the runs.

    Raises:
        FormatError: If a path does not exist, or contains no run.
        SettingsError: If a run is given twice.
    """
    folders: list[Path] = []
    for path in paths:
        existing(path, error=FormatError, what="folder")
        inside = [path] if is_run(path) else sorted(file.parent for file in path.glob(f"[!.]*/{HEADER}"))
        if not inside:
            raise FormatError(f"{path} contains no run.", hint="Give runs, or the --out folder of `cytoloc train`.")
        folders += inside
    refuse_given_twice(folders)
    return folders


def refuse_unfinished(folders: Iterable[Path]) -> None:
    """Raise :class:`~cytoloc.errors.FormatError` if runs are not finished; the message lists them."""
    unfinished = [str(folder) for folder in folders if not is_finished(folder)]
    if unfinished:
        are = "is" if len(unfinished) == 1 else "are"
        raise FormatError(
            f"{', '.join(unfinished)} {are} not finished.", hint="Continue with `cytoloc train … --resume`."
        )


def read_header(folder: Path) -> dict[str, Any]:
    """Read the header of a run.

    Args:
        folder: The folder of the run.

    Returns:
        The keys ``fold``, ``dataset``, ``label_set``, and the ids ``held_out`` and ``trained_on``.

    Raises:
        FormatError: If the folder is not a run, or its header is damaged.
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
        raise FormatError(f"{path} is damaged: it has no valid {', '.join(missing)}.", hint=_TRAIN_AGAIN)
    try:
        return {**header, "label_set": LabelSet.from_json(header.get("label_set"))}
    except LabelSetError as error:
        raise FormatError(f"{path} is damaged: {error.message}", hint=_TRAIN_AGAIN) from error


def _are_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
