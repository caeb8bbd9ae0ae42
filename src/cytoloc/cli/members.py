"""Options of several commands: predictions, members of an ensemble, labels, label set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cytoloc.predictions import Predictions

LabelsPath = Annotated[Path, typer.Option(help="Labels: CSV Id,Target, or a labeled dataset.")]
IdsPath = Annotated[Path | None, typer.Option("--ids", help="Ids of the rows of .npy and .npz files.")]
LabelSetOption = Annotated[
    str | None,
    typer.Option(
        "--label-set",
        help="Label set of files that do not state theirs: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.",
        metavar="NAME|FILE",
    ),
]
PredictionPaths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Prediction files or folders of runs. Those of different fields are joined, those of the same averaged.",
        metavar="PREDICTIONS…",
    ),
]
MembersSwitch = Annotated[
    bool,
    typer.Option("--members", help="Do not average: each of PREDICTIONS is a member, named after its file or folder."),
]
MemberPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--member",
        help="A member and its predictions. May be repeated; the same NAME adds fields.",
        metavar="NAME=PREDICTIONS",
    ),
]


def member_files(predictions: list[Path] | None, member: list[str] | None, *, apart: bool) -> dict[str, list[Path]]:
    """Return the prediction files of each member.

    Without ``apart`` and ``member`` all files are of one member, ``mean``: folds are joined, the rest averaged.

    Raises:
        SettingsError: If both ways are mixed, or a name is empty or used twice.
    """
    from cytoloc.errors import SettingsError
    from cytoloc.prediction_files import prediction_files

    if member:
        if predictions:
            raise SettingsError(
                f"{predictions[0]} has no name, but members are named.",
                hint="Name every one: --member NAME=PREDICTIONS.",
            )
        named: dict[str, list[Path]] = {}
        for word in member:
            name, found, path = word.partition("=")
            if not (name and found and path):
                raise SettingsError(
                    f"--member {word} is not NAME=PREDICTIONS.", hint="For example --member a=a.parquet."
                )
            named.setdefault(name, []).extend(prediction_files([Path(path)]))
        return named
    if not predictions:
        raise typer.BadParameter("Name prediction files, or folders of runs.", param_hint="PREDICTIONS…")
    if not apart:
        return {"mean": prediction_files(predictions)}
    names = [path.name if path.is_dir() else path.stem for path in predictions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise SettingsError(
            f"Two members would be called {twice!r}.", hint="Name them: --member NAME=PREDICTIONS --member …"
        )
    return {name: prediction_files([path]) for name, path in zip(names, predictions, strict=True)}


def read_prediction_files(paths: list[Path], *, ids: Path | None, label_set: str | None) -> dict[str, Predictions]:
    """Return the predictions in files, by path.

    Args:
        paths: The files.
        ids: Ids of the rows of NumPy files.
        label_set: Of files that do not state theirs, as a user names it.

    Raises:
        TableError: If a file is no predictions.
        LabelSetError: If there is no such label set, or files have different ones.
    """
    from cytoloc.labels.label_set import find_label_set
    from cytoloc.prediction_files import read_predictions
    from cytoloc.predictions import refuse_different

    chosen = find_label_set(label_set) if label_set else None
    found = {str(path): read_predictions(path, ids=ids, label_set=chosen) for path in paths}
    refuse_different(found)
    return found


def read_members(
    files: dict[str, list[Path]], *, ids: Path | None, label_set: str | None
) -> dict[str, dict[str, Predictions]]:
    """Return the predictions of each member, by member and path.

    Raises:
        TableError: If a file is no predictions.
        LabelSetError: If there is no such label set, or files have different ones.
    """
    paths = [path for several in files.values() for path in several]
    tables = read_prediction_files(paths, ids=ids, label_set=label_set)
    return {name: {str(path): tables[str(path)] for path in several} for name, several in files.items()}


def refuse_calibrated(members: dict[str, dict[str, Predictions]]) -> None:
    """Raise TableError if a decision was applied to predictions before; fitting or deciding on them is a mistake."""
    from cytoloc.errors import TableError

    for path, table in ((path, table) for tables in members.values() for path, table in tables.items()):
        if "calibrated_by" in table.provenance:
            raise TableError(
                f"{path}: these predictions are calibrated already, by a decision.",
                hint="Give the predictions that it was applied to. Locations are written by `decide apply"
                " --out` and `predict --locations`.",
            )
