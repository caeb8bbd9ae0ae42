"""The command ``cytoloc``. Each command imports slow modules itself, so that ``--help`` is fast."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

import cytoloc
from cytoloc.cli import (
    adjust,
    adopt,
    bundle,
    cells,
    curation,
    dataset,
    decide,
    demo,
    embed,
    ensemble,
    evaluate,
    explain,
    export,
    fetch,
    folds,
    importing,
    labels,
    plates,
    predict,
    report,
    reproduce,
    serve,
    simulate,
    streaming,
    train,
    tune,
)
from cytoloc.cli.console import as_flags, printed_warnings
from cytoloc.errors import CytolocError
from cytoloc.files import storage_error

ORDER: Final = (
    *("demo", "simulate", "fetch", "import", "info", "show", "labels"),
    *("duplicates", "leak", "audit", "folds"),
    *("recipes", "train", "tune", "predict", "merge", "ensemble", "decide", "evaluate", "report"),
    *("explain", "embed", "segment", "aggregate"),
    *("bundle", "export", "models", "adopt", "adjust", "serve", "reproduce"),
)
"""The commands in the order of ``cytoloc --help``: the order in which the data pass through them."""


class _Ordered(TyperGroup):
    """The commands, listed in :data:`ORDER`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    cls=_Ordered,
    help="Predict which cell compartments a fluorescently labeled protein is in.\n\nExample: `cytoloc demo`"
    " runs the whole workflow on simulated cells.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"cytoloc {cytoloc.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


demo.register(app)
simulate.register(app)
dataset.register(app)
plates.register(importing.register(app))
fetch.register(app)
curation.register(app)
folds.register(app)
labels.register(app)
train.register(app)
tune.register(app)
predict.register(app)
streaming.register(app)
cells.register(app)
export.register(app)
embed.register(app)
explain.register(app)
ensemble.register(app)
decide.register(app)
evaluate.register(app)
report.register(app)
bundle.register(app)
adopt.register(app)
adjust.register(app)
serve.register(app)
reproduce.register(app)


def main() -> None:
    """Run the command line; exit 0 when done, 1 when it failed, 2 when it was called wrongly."""
    run(app)


def run(program: typer.Typer, *, name: str = "cytoloc") -> None:
    """Run a command line program; print an error as a message, and exit with its code."""
    try:
        with printed_warnings():
            program(prog_name=name)
    except CytolocError as error:
        _fail(error)
    except OSError as error:
        # A disk can fill up in any write. Any other error of the system is a defect of ours and shows its traceback.
        full = storage_error(error, error.filename or "The output")
        if full is None:
            raise
        _fail(full)


def _fail(error: CytolocError) -> None:
    sys.stdout.flush()
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(as_flags(str(error)), err=True)
    sys.exit(error.exit_code)
