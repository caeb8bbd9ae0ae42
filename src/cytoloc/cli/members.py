"""Which scores belong to which member of an ensemble: what several commands are told in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.cli.console import score_files

if TYPE_CHECKING:
    from cytoloc.scores import Scores

LabelsPath = Annotated[Path, typer.Option(help="The truth: CSV Id,Target, or a labelled dataset.")]
IdsPath = Annotated[Path | None, typer.Option("--ids", help="Ids, row by row, for .npy and .npz files.")]
LabelSetOption = Annotated[
    str | None,
    typer.Option(
        "--label-set",
        help="Label set of files that do not state theirs: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.",
        metavar="NAME|FILE",
    ),
]
ScorePaths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Score files, or folders of runs; of different fields they are joined, of the same averaged.",
        metavar="SCORES…",
    ),
]
MembersSwitch = Annotated[
    bool,
    typer.Option("--members", help="Each of SCORES is a member of its own, named as its file or folder, not averaged."),
]
MemberPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--member",
        help="A member NAME=SCORES; the same NAME again adds further fields. May be repeated.",
        metavar="NAME=SCORES",
    ),
]


def member_files(scores: list[Path] | None, member: list[str] | None, *, apart: bool) -> dict[str, list[Path]]:
    """Return the score files of each member.

    Without ``apart`` and ``member`` all files are of one member, ``mean``: folds are joined, the rest averaged.

    Raises:
        SettingsError: If both ways are mixed, or a name is empty or used twice.
    """
    from cytoloc.errors import SettingsError

    if member:
        if scores:
            raise SettingsError(
                f"{scores[0]} has no name, but members are named.", way_out="Name every one: --member NAME=SCORES."
            )
        named: dict[str, list[Path]] = {}
        for word in member:
            name, found, path = word.partition("=")
            if not (name and found and path):
                raise SettingsError(f"--member {word} is not NAME=SCORES.", way_out="For example --member a=a.parquet.")
            named.setdefault(name, []).extend(score_files([Path(path)]))
        return named
    if not scores:
        raise typer.BadParameter("Name score files, or folders of runs.", param_hint="SCORES…")
    if not apart:
        return {"mean": score_files(scores)}
    names = [path.name if path.is_dir() else path.stem for path in scores]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise SettingsError(
            f"Two members would be called {twice!r}.", way_out="Name them: --member NAME=SCORES --member …"
        )
    return {name: score_files([path]) for name, path in zip(names, scores, strict=True)}


def read_scores_files(paths: list[Path], *, ids: Path | None, label_set: str | None) -> dict[str, Scores]:
    """Return what score files hold, by path.

    Args:
        paths: The files.
        ids: Ids of the rows of NumPy files.
        label_set: Of files that do not state theirs, as a user names it.

    Raises:
        TableError: If a file is no scores.
        LabelSetError: If there is no such label set, or files have different ones.
    """
    from cytoloc.labels import find_label_set
    from cytoloc.scores import read_scores, refuse_different

    chosen = find_label_set(label_set) if label_set else None
    found = {str(path): read_scores(path, ids=ids, label_set=chosen) for path in paths}
    refuse_different(found)
    return found


def read_members(
    files: dict[str, list[Path]], *, ids: Path | None, label_set: str | None
) -> dict[str, dict[str, Scores]]:
    """Return what each member's files hold, by member and path.

    Raises:
        TableError: If a file is no scores, or its scores were decided on before.
        LabelSetError: If there is no such label set, or files have different ones.
    """
    from cytoloc.errors import TableError

    paths = [path for several in files.values() for path in several]
    tables = read_scores_files(paths, ids=ids, label_set=label_set)
    found = {name: {str(path): tables[str(path)] for path in several} for name, several in files.items()}
    for tables in found.values():
        for path, table in tables.items():
            if "calibrated_by" in table.provenance:
                raise TableError(
                    f"{path}: these scores are calibrated already, by a decision.",
                    way_out="Give the scores that it was applied to. Locations are written by `decide apply --out` and"
                    " `predict --locations`.",
                )
    return found
