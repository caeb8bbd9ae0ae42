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


def read_members(files: dict[str, list[Path]], *, ids: Path | None) -> dict[str, dict[str, Scores]]:
    """Return what each member's files hold, by member and path.

    Raises:
        TableError: If a file is no scores, or its scores were decided on before.
    """
    from cytoloc.errors import TableError
    from cytoloc.scores import read_scores

    found = {name: {str(path): read_scores(path, ids=ids) for path in paths} for name, paths in files.items()}
    for tables in found.values():
        for path, table in tables.items():
            if "calibrated_by" in table.provenance:
                raise TableError(
                    f"{path}: these scores are calibrated already, by a decision.",
                    way_out="Give the scores that it was applied to. Locations are written by `decide apply --out` and"
                    " `predict --locations`.",
                )
    return found
