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
        Path | None, typer.Option(help="Of `decide fit` on the runs' out-of-fold predictions: calibrates and decides.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="The model card, Markdown; by default one of what the runs say.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Keep weights with 16 bits instead of 32.")] = False,
    caution: Annotated[str, typer.Option(help="What is to be said with every prediction.")] = "",
) -> None:
    """Pack finished runs, and a decision, into one file that predicts anywhere.

    Example: `cytoloc bundle runs/ --decision decision.json --out model.cytoloc`
    """
    require_nets()
    from cytoloc.errors import SettingsError, TableError
    from cytoloc.files import check_outputs
    from cytoloc.predict.bundle import SUFFIX, write_bundle
    from cytoloc.runs import find_runs

    if out.suffix != SUFFIX:
        raise SettingsError(f"{out}: a bundle's name ends in {SUFFIX}.", hint=f"Choose {out.stem}{SUFFIX}.")
    check_outputs(out)
    folders = [folder.resolve() for folder in find_runs(runs)]
    try:
        said = card.read_text(encoding="utf-8") if card else None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{card} cannot be read: {error}.", hint="Give a text file in UTF-8.") from error
    write_bundle(folders, out, card=said, decision=decision, half=half, caution=caution)
    megabytes = out.stat().st_size / 1e6
    typer.echo(f"{out}: {counted(len(folders), 'network')}, {megabytes:.1f} MB.")
