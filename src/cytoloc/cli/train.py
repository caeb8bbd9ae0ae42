"""Commands around recipes and runs: recipes, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import on_terminal, require_nets


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("recipes")(recipes)
    app.command("train")(train)


def recipes(name: Annotated[str | None, typer.Argument(help="Show this one, every key resolved.")] = None) -> None:
    """List the recipes, or show one with all its keys.

    Example: `cytoloc recipes quick`
    """
    from cytoloc.recipe import load_recipe, recipe_names, to_toml

    if name:
        typer.echo(to_toml(load_recipe(name)), nl=False)
        return
    for known in recipe_names():
        typer.echo(f"{known:<16} {load_recipe(known).summary}")


def train(
    recipe: Annotated[str, typer.Argument(help="Of `cytoloc recipes`, or a .toml file.", metavar="RECIPE")],
    atlas: Annotated[str, typer.Argument(help="The fields to learn from: a folder, or a URL.", metavar="ATLAS")],
    folds: Annotated[Path, typer.Option(help="CSV id,group,fold of `cytoloc folds`.")],
    out: Annotated[Path, typer.Option(help="Run folders are made in here.")],
    fold: Annotated[str, typer.Option(help="The fold to hold out, or all, one run each.")] = "all",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key: section.key=value. May be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with runs that were stopped.")] = False,
) -> None:
    """Train a recipe on all folds but one, and score the fields held out.

    Example: `cytoloc train quick train.atlas --folds folds.csv --fold all --out runs/`
    """
    require_nets()
    from cytoloc.atlas.store import open_atlas
    from cytoloc.folds.table import read_folds
    from cytoloc.recipe import load_recipe
    from cytoloc.report.figures import training_curve
    from cytoloc.train.run import check_run, train_fold

    resolved = load_recipe(recipe, overrides=settings or [])
    table = read_folds(folds)
    fields = open_atlas(atlas)
    if fold != "all" and not fold.isdecimal():
        raise typer.BadParameter(f"{fold!r} is neither a number nor 'all'.", param_hint="--fold")
    numbers = sorted(table["fold"].drop_nulls().unique().to_list()) if fold == "all" else [int(fold)]
    for number in numbers:
        check_run(resolved, fields, table, number, out=out, resume=resume)
    runs = [
        train_fold(
            resolved,
            fields,
            table,
            number,
            out=out,
            resume=resume,
            progress_bar=on_terminal(),
            report=_above_the_bar if on_terminal() else typer.echo,
        )
        for number in numbers
    ]
    curve = out / f"{resolved.name}-curve.png"
    training_curve({run.name: run / "log.csv" for run in runs}, curve)
    typer.echo(f"{out}: {', '.join(run.name for run in runs)}; held-out scores in each; {curve.name}")


def _above_the_bar(line: str) -> None:
    """Print a line without breaking the progress bar under it."""
    from tqdm import tqdm

    tqdm.write(line)
