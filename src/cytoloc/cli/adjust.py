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
        Path,
        typer.Argument(
            help="Model: a built-in model (builtin, builtin-protein-nucleus or builtin-protein), or a bundle"
            " (.cytoloc).",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    datasets: Annotated[
        list[Path],
        typer.Argument(
            help="Datasets of typical images, with at least 50 fields each. They need no labels.",
            metavar="DATASET…",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="New bundle file (.cytoloc).")],
    share: Annotated[
        float,
        typer.Option(
            help="Weight of your images in the new means and variances, above 0 and at most 1. The training images"
            " have the remaining weight."
        ),
    ] = 0.5,
    enlarge: Annotated[
        float | None,
        typer.Option(
            help="Factor by which the networks enlarge images, from 1 to 4. It can help networks that were trained"
            " with random zoom. Default: keep the size that the model uses."
        ),
    ] = None,
) -> None:
    """Adjust a model to the look of your images, without labels.

    Images of another microscope or stain look different from the training images. The batch normalization of the model
    stores the mean and the variance of each feature. They are replaced by a mixture of the stored values and those of
    your images. The weights and the decision stay the same.

    Example: `cytoloc adjust builtin my.dataset --out adjusted.cytoloc`
    """
    require_nets()
    import cytoloc as cl

    with progress("Adjusting") as advance:
        cl.adjust(model, datasets, out, share=share, enlarge=enlarge, progress=advance)
    typer.echo(f"{out}: adjusted to {', '.join(map(str, datasets))}.")
    typer.echo(f"Next: cytoloc predict {out} INPUT --out predictions.parquet")
