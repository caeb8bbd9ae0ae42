"""The command ``cytoloc bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import counted, note, require_nets


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("bundle")(bundle)


def bundle(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs, or folders of runs, whose predictions are averaged.", metavar="RUN…")
    ],
    out: Annotated[Path, typer.Option(help="New bundle file (.cytoloc).")],
    decision: Annotated[
        Path | None,
        typer.Option(
            help="Decision file of `cytoloc decide fit` on the out-of-fold predictions of these runs. Without it the"
            " bundle predicts probabilities only."
        ),
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Model card, a Markdown file. Default: a generated list of the runs.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Store weights with 16 bits instead of 32, which halves the file size.")
    ] = False,
    inputs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Dataset of good images. The model marks images that are unlike them. Can be repeated. Default: the"
            " dataset that the runs were trained on.",
            metavar="DATASET",
        ),
    ] = None,
    knowledge: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns location and knowledge: how reliable the predictions of a location"
            " are, such as transfers or unknown. Every table of predictions shows it."
        ),
    ] = None,
    int8: Annotated[
        Path | None,
        typer.Option(
            help="Dataset of typical fields. The bundle also gets networks with 8-bit integers for `cytoloc predict"
            " --precision int8`, if they change few decisions on other fields of the dataset.",
            metavar="DATASET",
        ),
    ] = None,
    caution: Annotated[str, typer.Option(help="Warning that is shown with every prediction. Default: none.")] = "",
) -> None:
    """Pack finished runs and a decision into one file for prediction on any machine.

    Example: `cytoloc bundle runs/ --decision decision.json --out model.cytoloc`

    Example: `cytoloc bundle runs/ --decision decision.json --int8 train.dataset --out model.cytoloc`
    """
    require_nets()
    from cytoloc.errors import TableError
    from cytoloc.predict.bundle import BundleOptions, open_bundle, read_knowledge, write_bundle

    try:
        text = card.read_text(encoding="utf-8") if card else None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(
            f"The model card {card} cannot be read: {error}.", hint="Give a text file in UTF-8."
        ) from error
    known = read_knowledge(knowledge) if knowledge else None
    write_bundle(
        list(runs),
        out,
        decision=decision,
        options=BundleOptions(card=text, half=half, caution=caution, inputs=inputs, knowledge=known or {}, int8=int8),
    )
    written = open_bundle(out)
    networks = len(written.header.members)
    typer.echo(f"{out}: {counted(networks, 'network')}, {out.stat().st_size / 1e6:.1f} MB.")
    if report := written.int8_report():
        compared, changed = report["compared_fields"], report["changed_decisions"]
        typer.echo(f"int8 networks change {changed:.2%} of decisions for {counted(compared, 'field')}.")
    if written.inputs() is None:
        note("The bundle has no statistics of good images, so it cannot mark unusual images. Give --inputs DATASET.")
    typer.echo(f"Next: cytoloc predict {out} INPUT --out predictions.parquet")
