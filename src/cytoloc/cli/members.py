"""Options that several commands share: predictions, ensemble members, labels, label set, JSON, and `--strict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cytoloc.predictions import Predictions

LabelsPath = Annotated[Path, typer.Option(help="True labels: a CSV file with columns Id,Target, or a labeled dataset.")]
IdsPath = Annotated[
    Path | None,
    typer.Option("--ids", help="File with the field ids of the rows of .npy and .npz predictions, in their order."),
]
LabelSetOption = Annotated[
    str | None,
    typer.Option(
        "--label-set",
        help="Label set of input files that do not state one: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.",
        metavar="NAME|FILE",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first field that cannot be read, instead of skipping it.")
]
PredictionPaths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Prediction files, or folders of runs. Predictions of different fields are joined; several predictions of"
        " the same field are averaged.",
        metavar="PREDICTIONS…",
    ),
]
MembersSwitch = Annotated[
    bool,
    typer.Option(
        "--members",
        help="Treat each of PREDICTIONS as one ensemble member, named after its file or folder, instead of averaging.",
    ),
]
MemberPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--member",
        help="Name and predictions of an ensemble member. Can be repeated; a repeated NAME adds fields to the member.",
        metavar="NAME=PREDICTIONS",
    ),
]


def member_files(predictions: list[Path] | None, member: list[str] | None, *, apart: bool) -> dict[str, list[Path]]:
    """Return the prediction files of each ensemble member.

    If neither ``apart`` nor ``member`` is given, all files belong to one member named ``mean``.

    Args:
        predictions: Files or folders without a member name.
        member: Members in the form ``NAME=PREDICTIONS``.
        apart: Whether each of ``predictions`` is a member of its own.

    Raises:
        SettingsError: If named and unnamed predictions are mixed, or a name is empty or used twice.
    """
    from cytoloc.errors import SettingsError
    from cytoloc.prediction_files import prediction_files

    if member:
        if predictions:
            raise SettingsError(
                f"{predictions[0]} has no member name, but other predictions do.",
                hint="Name every member: --member NAME=PREDICTIONS.",
            )
        named: dict[str, list[Path]] = {}
        for word in member:
            name, found, path = word.partition("=")
            if not (name and found and path):
                raise SettingsError(
                    f"--member {word} does not have the form NAME=PREDICTIONS.",
                    hint="Write for example --member a=a.parquet.",
                )
            named.setdefault(name, []).extend(prediction_files([Path(path)]))
        return named
    if not predictions:
        raise typer.BadParameter("Give prediction files, or folders of runs.", param_hint="PREDICTIONS…")
    if not apart:
        return {"mean": prediction_files(predictions)}
    names = [path.name if path.is_dir() else path.stem for path in predictions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise SettingsError(
            f"Two ensemble members have the same name, {twice!r}.",
            hint="Name each member with --member NAME=PREDICTIONS.",
        )
    return {name: prediction_files([path]) for name, path in zip(names, predictions, strict=True)}


def read_prediction_files(paths: list[Path], *, ids: Path | None, label_set: str | None) -> dict[str, Predictions]:
    """Read prediction files.

    Args:
        paths: The files.
        ids: File with the ids of the rows of NumPy files.
        label_set: Name or path of the label set of files that do not state one.

    Returns:
        The predictions of each file, by path.

    Raises:
        TableError: If a file does not contain predictions.
        LabelSetError: If the label set is unknown, or the files have different label sets.
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
    """Read the predictions of each ensemble member.

    Args:
        files: The prediction files of each member.
        ids: File with the ids of the rows of NumPy files.
        label_set: Name or path of the label set of files that do not state one.

    Returns:
        The predictions of each file, by member and path.

    Raises:
        TableError: If a file does not contain predictions.
        LabelSetError: If the label set is unknown, or the files have different label sets.
    """
    paths = [path for several in files.values() for path in several]
    tables = read_prediction_files(paths, ids=ids, label_set=label_set)
    return {name: {str(path): tables[str(path)] for path in several} for name, several in files.items()}


def refuse_calibrated(members: dict[str, dict[str, Predictions]]) -> None:
    """Raise TableError if predictions were calibrated by a decision before."""
    from cytoloc.errors import TableError

    for path, table in ((path, table) for tables in members.values() for path, table in tables.items()):
        if "calibrated_by" in table.provenance:
            raise TableError(
                f"{path}: the predictions were calibrated by a decision already.",
                hint="Predict with --uncalibrated. To write locations, use `decide apply` or `predict --locations`.",
            )
