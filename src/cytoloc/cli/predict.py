"""The command predict."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import counted, progress, require_nets


class Views(StrEnum):
    """How many flips and turns."""

    one = "1"
    two = "2"
    four = "4"
    eight = "8"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("predict")(predict)


def predict(
    model: Annotated[Path, typer.Argument(help="A run, or a folder of runs to average.", metavar="MODEL")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Atlases, also at URLs, or folders of {Id}_{red,green,blue,yellow}.png at any size.", metavar="INPUT…"
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new scores file (.parquet).")],
    views: Annotated[
        Views | None, typer.Option(help="Flips and turns to average over; by default the recipe's.")
    ] = None,
) -> None:
    """Predict the probability of every location for every field.

    Example: `cytoloc predict runs/ test.atlas --out scores.parquet`
    """
    require_nets()
    from cytoloc.files import refuse_existing
    from cytoloc.predict.model import load
    from cytoloc.predict.sources import open_source
    from cytoloc.scores import join, write_scores

    refuse_existing(out)
    sources = [open_source(path) for path in inputs]
    loaded = load(model)
    parts = []
    for path, source in zip(inputs, sources, strict=True):
        with progress(f"predicting {Path(path).name}") as advance:
            parts.append(loaded.score(source, views=int(views.value) if views else None, advance=advance))
    scores = join(parts)
    write_scores(scores, out)
    said = f"{out}: {counted(len(scores), 'field')}, networks: {len(loaded.networks)}"
    typer.echo(f"{said}, views: {scores.provenance['views']}.")
