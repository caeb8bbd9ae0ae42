"""The commands ``cytoloc recipes`` and ``cytoloc train``, and options that ``tune`` shares."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cytoloc.choices import Device
from cytoloc.cli.console import as_flags, on_terminal, require_nets, warn_if_unfinished
from cytoloc.memory import keep_freed_memory

DatasetArgument = Annotated[str, typer.Argument(help="Dataset to train on: a folder or a URL.", metavar="DATASET")]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a key of the recipe: section.key=value. Can be repeated.", metavar="KEY=VALUE"),
]
DeviceOption = Annotated[Device, typer.Option(help="Device to train on. auto: the fastest one available.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("recipes")(recipes)
    app.command("train")(train)


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Recipe to show with the values of all its keys. Default: list all recipes.")
    ] = None,
) -> None:
    """List the training recipes, or show one with the values of all its keys.

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
        cells = [f"{score:.3f}" if score is not None else "-" for score in scores]
        lines.append(row(name, f"{loss_in_words(load_recipe(name)):<24} {cells[0]:>5} {cells[1]:>6} {cells[2]:>7}"))
    lines += [
        "Macro F1 as published by the author of the silver-medal baseline; cytoloc measured none of these values.",
        "",
    ]
    lines.append(f"{heading}loss")
    for name in recipe_names():
        if name not in published:
            lines.append(row(name, loss_in_words(load_recipe(name))))
    typer.echo("\n".join(lines))


def train(
    recipe: Annotated[
        list[str],
        typer.Argument(help="Recipes: names that `cytoloc recipes` lists, or .toml files.", metavar="RECIPE"),
    ],
    dataset: DatasetArgument,
    folds: Annotated[Path, typer.Option(help="Folds file of `cytoloc folds`: CSV with columns id,group,fold.")],
    out: Annotated[Path, typer.Option(help="Folder in which a folder is created for each run.")],
    fold: Annotated[
        str, typer.Option(help="Validation fold: its number, or all to train one run per fold.", metavar="N|all")
    ] = "all",
    settings: SettingsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue interrupted runs from their last checkpoint.")
    ] = False,
    device: DeviceOption = "auto",
    devices: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes that train one run together, one per GPU or core. Default: 1."),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of machines. Start cytoloc on each with torchrun or srun. Default: 1."),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(help="Also log the runs to MLflow: a tracking URI, or a SQLite file.", metavar="URI"),
    ] = None,
) -> None:
    """Train one or more recipes, and predict the fields of the validation fold of each run.

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
        raise typer.BadParameter(f"{fold!r} is neither a fold number nor 'all'.", param_hint="--fold")
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
    typer.echo(
        f"{out}: {', '.join(run.name for run in runs)}; out-of-fold predictions in each; {curves}"
        f"\nNext: cytoloc decide fit {out} --labels {dataset} --folds {folds} --out decision.json"
    )
