"""The command ``cytoloc tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import progress, require_nets, warn_if_unfinished
from cytoloc.cli.train import DatasetArgument, DeviceOption, SettingsOption


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("tune")(tune)


def tune(
    recipe: Annotated[
        str,
        typer.Argument(help="Recipe to tune: a name that `cytoloc recipes` lists, or a .toml file.", metavar="RECIPE"),
    ],
    dataset: DatasetArgument,
    folds: Annotated[Path, typer.Option(help="Folds file of `cytoloc folds`, with at least three folds.")],
    space: Annotated[
        Path,
        typer.Option(
            help='TOML file of keys and their values: "schedule.learning_rate" = {low = 1e-4, high = 1e-2, log = true},'
            ' or "model.dropout" = [0.1, 0.5].'
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the study, the tuned recipe, the table and the plot of the trials.")
    ],
    trials: Annotated[
        int, typer.Option(help="Total number of trials, including those of earlier runs of the command.", min=1)
    ] = 20,
    fold: Annotated[int | None, typer.Option(help="Validation fold of the trials. Default: the first fold.")] = None,
    test_fold: Annotated[
        int | None, typer.Option(help="Fold that no trial sees, for the final comparison. Default: the last fold.")
    ] = None,
    settings: SettingsOption = None,
    no_prune: Annotated[
        bool, typer.Option("--no-prune", help="Train every trial to its end, also if it is worse than earlier ones.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of the search.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the runs of all trials, not only of the best one.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Search for better values of recipe keys with Optuna, and compare the result with the recipe on an unseen fold.

    Tuning is resumable: run the command again. Several processes can work on one study: run the command several times
    with the same `--out`.

    Example: `cytoloc tune quick train.dataset --folds folds.csv --space space.toml --trials 30 --out tuned/`
    """
    require_nets()
    from cytoloc.dataset.store import open_dataset
    from cytoloc.recipes.recipe import load_recipe
    from cytoloc.training.options import TrainOptions
    from cytoloc.training.tuning import TuneOptions, tune_recipe

    fields = open_dataset(dataset)
    warn_if_unfinished(fields)
    options = TuneOptions(
        trials=trials,
        fold=fold,
        test_fold=test_fold,
        prune=not no_prune,
        seed=seed,
        keep=keep,
        train=TrainOptions(device=device, report=lambda _line: None),
    )
    with progress("Trials") as advance:
        result = tune_recipe(
            load_recipe(recipe, overrides=settings or ()),
            fields,
            folds,
            space=space,
            out=out,
            options=options,
            progress=advance,
        )
    for key, value in result.values.items():
        typer.echo(f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}")
    typer.echo(
        f"Mean average precision on the test fold, which no trial saw: {result.tuned:.3f}, untuned"
        f" {result.untuned:.3f}."
    )
    typer.echo(f"Next: cytoloc train {out}/best.toml {dataset} --folds {folds} --out runs/")
