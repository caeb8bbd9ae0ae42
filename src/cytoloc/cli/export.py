"""The command ``cytoloc export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import counted, require_nets
from cytoloc.cli.predict import ModelPath


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("export")(export)


def export(
    model: ModelPath,
    out: Annotated[Path, typer.Option(help="New folder; for bioimageio, a new .zip file.")],
    format: Annotated[  # noqa: A002
        Literal["onnx", "openvino", "bioimageio"],
        typer.Option(help="Format: onnx for ONNX Runtime, openvino, or bioimageio for a bioimage.io package."),
    ] = "onnx",
    tta: Annotated[
        Literal["1", "2", "4", "8"],
        typer.Option(help="Number of test-time augmentation views that the exported model averages."),
    ] = "1",
) -> None:
    """Export a model to files that other programs run, from 8-bit pixels to calibrated probabilities.

    The export contains a test input, its output, and a card with a script that runs the model.

    Example: `cytoloc export builtin --format onnx --out builtin-onnx`

    Example: `cytoloc export model.cytoloc --format bioimageio --out model.zip`
    """
    require_nets()
    from cytoloc.export.exporting import export_model

    written = export_model(model, out, format=format, tta=int(tta))
    files = [file for file in written.rglob("*") if file.is_file()] if written.is_dir() else [written]
    size = sum(file.stat().st_size for file in files)
    typer.echo(
        f"{written}: {counted(len(files), 'file')}, {size / 1e6:.1f} MB. Its probabilities equal those of {model} to"
        " 0.0001 on a test input."
    )
    typer.echo(
        "Next: test the package with `bioimageio test`, or open it in a program of the bioimage.io community."
        if format == "bioimageio"
        else f"Next: read {written / 'card.md'}, which contains a script that runs the model."
    )
