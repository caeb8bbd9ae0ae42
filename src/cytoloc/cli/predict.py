"""The command predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import counted, progress, require_nets


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("predict")(predict)


def predict(
    model: Annotated[Path, typer.Argument(help="A run, or a folder of runs to average.", metavar="MODEL")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Atlases, also at URLs, or folders of {Id}_{red,green,blue,yellow}.png or .tif at any size.",
            metavar="INPUT…",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new scores file (.parquet).")],
    views: Annotated[
        Literal["1", "2", "4", "8"] | None,
        typer.Option(help="Flips and turns to average over; by default the recipe's."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop if a field cannot be read.")] = False,
) -> None:
    """Predict the probability of every location for every field.

    Fields that cannot be read are listed with the reason in a CSV beside the scores, and the rest is predicted. Other
    files than the competition's become an atlas by `cytoloc import folder` first.

    Example: `cytoloc predict runs/ test.atlas --out scores.parquet`
    """
    require_nets()
    from cytoloc.atlas.quarantine import QUARANTINE, examples, write_quarantine
    from cytoloc.files import check_outputs, refuse_existing
    from cytoloc.predict.model import load
    from cytoloc.predict.sources import open_source
    from cytoloc.scores import check_scores_path, write_scores

    check_scores_path(out)
    check_outputs(out)
    listed = out.with_name(f"{out.stem}.{QUARANTINE}")
    refuse_existing(listed)
    sources = [open_source(path) for path in inputs]
    loaded = load(model)
    with progress("predicting") as advance:
        scores, bad = loaded.score(*sources, views=int(views) if views else None, strict=strict, advance=advance)
    write_scores(scores, out)
    said = f"{out}: {counted(len(scores), 'field')}, networks: {len(loaded.networks)}"
    typer.echo(f"{said}, views: {scores.provenance['views']}.")
    if bad:
        write_quarantine(bad, listed)
        typer.secho(f"{counted(len(bad), 'field')} could not be read; {listed} says why.", fg="yellow", err=True)
        for name, reason in examples(bad):
            typer.echo(f"  {name}: {reason}", err=True)
