"""The command ``cytoloc bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import counted, require_nets


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("bundle")(bundle)


def bundle(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or folders of runs, to be averaged.", metavar="RUN…")],
    out: Annotated[Path, typer.Option(help="The new bundle (.cytoloc).")],
    decision: Annotated[
        Path | None, typer.Option(help="Decision file of `decide fit` on the out-of-fold predictions of these runs.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="The model card in Markdown; by default a list of the runs.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights with 16 bits instead of 32.")] = False,
    caution: Annotated[str, typer.Option(help="A caution to show with every prediction.")] = "",
) -> None:
    """Pack finished runs, and a decision, into one file that predicts anywhere.

    Example: `cytoloc bundle runs/ --decision decision.json --out model.cytoloc`
    """
    require_nets()
    from cytoloc.errors import TableError
    from cytoloc.predict.bundle import open_bundle, write_bundle

    try:
        text = card.read_text(encoding="utf-8") if card else None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{card} cannot be read: {error}.", hint="Give a text file in UTF-8.") from error
    write_bundle(list(runs), out, card=text, decision=decision, half=half, caution=caution)
    networks = len(open_bundle(out).header.members)
    typer.echo(f"{out}: {counted(networks, 'network')}, {out.stat().st_size / 1e6:.1f} MB.")
