"""The command ``cytoloc adjust``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import progress, require_nets


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("adjust")(adjust)


def adjust(
    model: Annotated[
        Path, typer.Argument(help="Bundle (.cytoloc), or `builtin`.", metavar="MODEL", show_default=False)
    ],
    datasets: Annotated[
        list[Path],
        typer.Argument(
            help="Datasets of typical images, at least 50 each. They need no labels.",
            metavar="DATASET…",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="New bundle file (.cytoloc).")],
    share: Annotated[
        float,
        typer.Option(
            help="Weight of the new images, above 0 and at most 1. The training images get the remaining weight."
        ),
    ] = 0.5,
    enlarge: Annotated[
        float | None,
        typer.Option(
            help="Factor by which the networks enlarge images, 1 to 4. A network that was trained with random zoom can"
            " be better at enlarged images. Default: keep the size that the model uses."
        ),
    ] = None,
) -> None:
    """Adjust a model to the look of your images, without labels.

    The means and variances in the batch normalization of the model are blended with those of the images. No weight
    changes, and the decision stays.

    Example: `cytoloc adjust builtin my.dataset --out adjusted.cytoloc`
    """
    require_nets()
    import cytoloc as cl

    with progress("Adjusting") as advance:
        cl.adjust(model, datasets, out, share=share, enlarge=enlarge, progress=advance)
    typer.echo(f"{out}: adjusted to {', '.join(map(str, datasets))}.")
    typer.echo(f"Next: cytoloc predict {out} INPUT --out predictions.parquet")
