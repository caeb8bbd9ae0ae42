"""Commands around recipes and runs: recipes, train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cytoloc.choices import Device
from cytoloc.cli.console import as_flags, on_terminal, require_nets, warn_if_unfinished
from cytoloc.memory import keep_freed_memory


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("recipes")(recipes)
    app.command("train")(train)


def recipes(name: Annotated[str | None, typer.Argument(help="Show this recipe with all its keys.")] = None) -> None:
    """List the recipes, or show one with all its keys.

    Example: `cytoloc recipes quick`
    """
    from cytoloc.recipes.recipe import load_recipe, loss_in_words, published_scores, recipe_names, to_toml

    if name:
        typer.echo(to_toml(load_recipe(name)), nl=False)
        return

    def row(name: str, last: str) -> str:
        recipe = load_recipe(name)
        edge, batch = recipe.image.size, recipe.schedule.batch_size * recipe.schedule.accumulate
        return f"{name:<16} {recipe.model.backbone:<24} {edge:>5} {batch:>6}  {last}"

    # The recipes of the silver-medal baseline come first, with their published metrics.
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
    typer.echo("\n".join(lines))


def train(
    recipe: Annotated[
        list[str], typer.Argument(help="One or more of `cytoloc recipes`, or .toml files.", metavar="RECIPE")
    ],
    dataset: Annotated[str, typer.Argument(help="The fields to train on: a folder, or a URL.", metavar="DATASET")],
    folds: Annotated[Path, typer.Option(help="CSV id,group,fold of `cytoloc folds`.")],
    out: Annotated[Path, typer.Option(help="The folders of the runs are made in this folder.")],
    fold: Annotated[str, typer.Option(help="The fold to hold out, or all, one run each.")] = "all",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key: section.key=value. Can be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue runs that were stopped.")] = False,
    device: Annotated[Device, typer.Option(help="The kind of device to train on.")] = "auto",
    devices: Annotated[
        int | None, typer.Option(min=1, help="Processes that train together, a GPU or core each; default 1.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Number of machines; start cytoloc on them with torchrun or srun.")
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(help="Track the runs with MLflow, too: a tracking URI, or a SQLite file.", metavar="URI"),
    ] = None,
) -> None:
    """Train recipes on all folds but one, and predict the held-out fields.

    Example: `cytoloc train quick train.dataset --folds folds.csv --fold all --out runs/`
    """
    require_nets()
    keep_freed_memory()
    from tqdm import tqdm

    from cytoloc.dataset.store import open_dataset
    from cytoloc.report.figures import training_curve
    from cytoloc.training import run as training
    from cytoloc.training.distributed import find_processes
    from cytoloc.training.options import TrainOptions
    from cytoloc.training.tracking import log_files

    if fold != "all" and not fold.isdecimal():
        raise typer.BadParameter(f"{fold!r} is neither a number nor 'all'.", param_hint="--fold")
    fields = open_dataset(dataset)
    warn_if_unfinished(fields)
    options = TrainOptions(
        resume=resume,
        device=device,
        processes=find_processes(devices, nodes, environ=os.environ, device=device),
        mlflow=mlflow,
        report=lambda line: (tqdm.write if on_terminal() else typer.echo)(as_flags(line)),
        progress_bar=on_terminal(),
    )
    runs = training.train(
        recipe,
        fields,
        folds,
        out=out,
        fold="all" if fold == "all" else int(fold),
        overrides=settings or [],
        options=options,
    )
    if options.processes and not options.processes.is_first:
        return
    names = list(dict.fromkeys(run.recipe for run in runs))
    for name in names:
        folders = [run.folder for run in runs if run.recipe == name]
        curve = out / f"{name}-curve.png"
        training_curve({folder.name: folder / "log.csv" for folder in folders}, curve)
        if mlflow:
            for folder in folders:
                log_files(mlflow, folder, [curve])
    curves = ", ".join(f"{name}-curve.png" for name in names)
    typer.echo(f"{out}: {', '.join(run.name for run in runs)}; out-of-fold predictions in each; {curves}")
