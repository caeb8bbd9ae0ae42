"""Commands around recipes and runs: recipes, train."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import on_terminal, require_nets, warn_if_unfinished
from cytoloc.memory import keep_freed_memory


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("recipes")(recipes)
    app.command("train")(train)


def recipes(name: Annotated[str | None, typer.Argument(help="Show this one, every key resolved.")] = None) -> None:
    """List the recipes, or show one with all its keys.

    Example: `cytoloc recipes quick`
    """
    from cytoloc.recipe import load_recipe, to_toml

    if name:
        typer.echo(to_toml(load_recipe(name)), nl=False)
        return
    for line in _recipe_table():
        typer.echo(line)


def _recipe_table() -> list[str]:
    """Return the recipes of the silver-medal baseline with their published scores, then cytoloc's own."""
    from cytoloc.recipe import load_recipe, loss_in_words, published_scores, recipe_names

    def row(name: str, last: str) -> str:
        recipe = load_recipe(name)
        edge, batch = recipe.image.size, recipe.schedule.batch_size * recipe.schedule.accumulate
        return f"{name:<16} {recipe.model.backbone:<24} {edge:>5} {batch:>6}  {last}"

    published = published_scores()
    heading = f"{'recipe':<16} {'network':<24} {'image':>5} {'batch':>6}  "
    lines = [f"{heading}{'loss':<24}    CV public private"]
    for name, scores in published.items():
        cells = [f"{score:.3f}"[1:] if score is not None else "-" for score in scores]
        lines.append(row(name, f"{loss_in_words(load_recipe(name)):<24} {cells[0]:>5} {cells[1]:>6} {cells[2]:>7}"))
    lines += [
        "Macro F1 as the author of the silver-medal baseline published it; nothing here was measured by cytoloc.",
        "",
    ]
    lines.append(f"{heading}loss")
    for name in recipe_names():
        if name not in published:
            lines.append(row(name, loss_in_words(load_recipe(name))))
    return lines


def train(
    recipe: Annotated[
        list[str], typer.Argument(help="One or more of `cytoloc recipes`, or .toml files.", metavar="RECIPE")
    ],
    dataset: Annotated[str, typer.Argument(help="The fields to learn from: a folder, or a URL.", metavar="DATASET")],
    folds: Annotated[Path, typer.Option(help="CSV id,group,fold of `cytoloc folds`.")],
    out: Annotated[Path, typer.Option(help="Run folders are made in here.")],
    fold: Annotated[str, typer.Option(help="The fold to hold out, or all, one run each.")] = "all",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key: section.key=value. May be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with runs that were stopped.")] = False,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Processes that learn together, a GPU or core each; default 1.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Machines, each with as many; start cytoloc by torchrun or srun.")
    ] = None,
    mlflow: Annotated[
        Path | None, typer.Option(help="Track the runs with MLflow too, in this SQLite file.", metavar="DB")
    ] = None,
) -> None:
    """Train recipes on all folds but one, and score the fields held out.

    Example: `cytoloc train quick train.dataset --folds folds.csv --fold all --out runs/`
    """
    require_nets()
    keep_freed_memory()
    from cytoloc.curation.folds_file import read_folds
    from cytoloc.dataset.store import open_dataset
    from cytoloc.recipe import load_recipe
    from cytoloc.report.figures import training_curve
    from cytoloc.training.processes import find_processes, part
    from cytoloc.training.run import check_run, run_folder, train_fold
    from cytoloc.training.tracking import add_files, check_database

    recipes = [load_recipe(name, overrides=settings or []) for name in recipe]
    names = [one.name for one in recipes]
    if len(set(names)) < len(names):
        raise typer.BadParameter(f"two recipes have the same name: {', '.join(names)}.", param_hint="RECIPE")
    processes = find_processes(devices, nodes, environ=os.environ)
    table = read_folds(folds)
    fields = open_dataset(dataset)
    warn_if_unfinished(fields)
    if fold != "all" and not fold.isdecimal():
        raise typer.BadParameter(f"{fold!r} is neither a number nor 'all'.", param_hint="--fold")
    numbers = sorted(table["fold"].drop_nulls().unique().to_list()) if fold == "all" else [int(fold)]
    wanted = [(one, number) for one in recipes for number in numbers]
    # All of them before the first trains for hours.
    coming: list[Path] = []
    for one, number in wanted:
        check_run(one, fields, table, number, out=out, resume=resume, processes=processes, coming=coming)
        coming.append(run_folder(one, number, out))
    if mlflow and processes.is_first:
        check_database(mlflow)
    say = _above_the_bar if on_terminal() else typer.echo
    places = [f"{number} of {len(wanted)}" for number in range(1, len(wanted) + 1)] if len(wanted) > 1 else [""]
    train_one = partial(
        train_fold,
        out=out,
        resume=resume,
        processes=processes,
        database=mlflow,
        progress_bar=on_terminal(),
        report=say,
    )
    runs = [
        train_one(one, fields, table, number, place=place) for (one, number), place in zip(wanted, places, strict=True)
    ]
    part()
    if not processes.is_first:
        return
    for name in names:
        logs = {run.name: run / "log.csv" for run in runs if run.name.rpartition("-")[0] == name}
        curve = out / f"{name}-curve.png"
        training_curve(logs, curve)
        if mlflow:
            for log in logs.values():
                add_files(mlflow, log.parent, [curve])
    curves = ", ".join(f"{name}-curve.png" for name in names)
    typer.echo(f"{out}: {', '.join(run.name for run in runs)}; out-of-fold predictions in each; {curves}")


def _above_the_bar(line: str) -> None:
    """Print a line without breaking the progress bar under it."""
    from tqdm import tqdm

    tqdm.write(line)
