"""Prediction into a folder of parts, for ``cytoloc predict``, and the command ``cytoloc merge``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.cli.console import counted, note, progress, terminated_as_interrupted

if TYPE_CHECKING:
    from cytoloc.predict.cluster import RayWorkers
    from cytoloc.predict.model import Model
    from cytoloc.predict.sources import Source
    from cytoloc.predict.streaming import StreamOptions, StreamState

PART_FIELDS = 10_000
"""Default number of fields in a part; importing the module of the same name would make the command slow to start."""

STOPPED = 130
"""The exit code of a command that was stopped by Ctrl-C or SIGTERM."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("merge")(merge)


def parse_shard(text: str) -> tuple[int, int]:
    """Return the numbers of ``2/8``.

    >>> parse_shard("2/8")
    (2, 8)
    """
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a shard; write for example 2/8.", param_hint="--shard")
    return int(number), int(of)


def parse_share(text: str) -> float:
    """Return the share of ``1%`` or ``0.01``.

    >>> parse_share("1%"), parse_share("0.25")
    (0.01, 0.25)
    """
    wrong = typer.BadParameter(f"{text!r} is not a share; write for example 1% or 0.01.", param_hint="--max-failed")
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise wrong from error
    if not 0 <= share <= 1:
        raise wrong
    return share


def predict_into_parts(
    model: Model,
    sources: Sequence[Source],
    out: str,
    options: StreamOptions,
    *,
    workers: RayWorkers | None,
    json_log: bool,
    metrics_file: Path | None,
) -> None:
    """Predict into a folder of parts, with progress, a log and metrics, and print what was done."""
    from cytoloc.predict.streaming import predict_parts

    if json_log:
        _log("start", out=out, sources=[source.name for source in sources], shard=list(options.shard))
    parts_done = -1
    latest: StreamState | None = None
    with terminated_as_interrupted(), progress("Predicting fields") as advance:

        def report(state: StreamState) -> None:
            nonlocal parts_done, latest
            latest = state
            if not json_log:
                advance(state.done, state.fields)
            if state.parts_done > parts_done:
                parts_done = state.parts_done
                if json_log:
                    _log("part", **asdict(state))
                if metrics_file:
                    write_metrics(state, metrics_file)

        try:
            last = predict_parts(model, sources, out, options=options, workers=workers, report=report)
        except KeyboardInterrupt:
            done = f"{latest.parts_done} of {counted(latest.parts, 'part')} are" if latest else "Nothing is"
            if json_log:
                _log("stopped", **(asdict(latest) if latest else {}))
            note(f"Stopped. {done} finished in {out}. Rerun the same command to continue.")
            raise typer.Exit(STOPPED) from None
    if json_log:
        _log("end", **asdict(last))
    number, of = options.shard
    shard = f"Shard {number} of {of}: " if of > 1 else ""
    on = counted(workers.count, "Ray worker") if workers else f"{model.device} with {model.engine}"
    typer.echo(f"{out}: {shard}{counted(last.fields, 'field')} in {counted(last.parts, 'part')}, on {on}.")
    if last.marked:
        note(f"The images of {counted(last.marked, 'field')} are unlike the training images; see the column caution.")
    if last.failed:
        failed = "failed.csv" if of == 1 else f"failed-{number}-of-{of}.csv"
        note(f"{counted(last.failed, 'field')} could not be read; {out}/{failed} gives the reasons.")
    if "://" in out:
        typer.echo("Next: copy the folder to a local disk, and make one file of all parts with `cytoloc merge`.")
    else:
        typer.echo(f"Next: `cytoloc merge {out} --out predictions.parquet` makes one file of all parts.")


def _log(event: str, **facts: Any) -> None:
    """Print an event as a line of JSON."""
    print(json.dumps({"time": round(time.time(), 3), "event": event, **facts}), file=sys.stderr, flush=True)


def write_metrics(state: StreamState, path: Path) -> None:
    """Write the progress in the text format of Prometheus, for the textfile collector of its node exporter."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    for name, value, what in (
        ("fields", state.fields, "Fields of this shard."),
        ("fields_done", state.done, "Fields that are predicted or failed."),
        ("fields_failed", state.failed, "Fields that could not be read."),
        ("fields_marked", state.marked, "Fields whose images are unlike the training images."),
        ("parts", state.parts, "Parts of this shard."),
        ("parts_done", state.parts_done, "Finished parts."),
        ("fields_per_second", state.fields_per_s, "Fields per second in this run."),
    ):
        Gauge(f"cytoloc_predict_{name}", what, registry=registry).set(value)
    write_to_textfile(str(path), registry)


def merge(
    folder: Annotated[Path, typer.Argument(help="Finished folder of `cytoloc predict`.", metavar="FOLDER")],
    out: Annotated[Path, typer.Option(help="New predictions file (.parquet).")],
    locations: Annotated[
        Path | None, typer.Option(help="Also write the predicted locations to this new CSV file.")
    ] = None,
) -> None:
    """Make one predictions file of a folder of parts.

    Example: `cytoloc merge predictions/ --out predictions.parquet --locations locations.csv`
    """
    from cytoloc.errors import SettingsError
    from cytoloc.files import new_files
    from cytoloc.prediction_files import check_predictions_path, read_predictions, write_predictions

    check_predictions_path(out)
    found = read_predictions(folder)
    parts = sorted(folder.glob("locations-*.csv"))
    if locations and not parts:
        raise SettingsError(
            f"{folder} contains no locations, because the model has no decision.",
            hint="Leave out --locations, and run `cytoloc decide apply`.",
        )
    with new_files(*[each for each in (out, locations) if each]) as temporary:
        write_predictions(found, temporary[out])
        if locations:
            lines = [line for part in parts for line in part.read_text(encoding="utf-8").splitlines()[1:]]
            temporary[locations].write_text("\n".join(["Id,Predicted", *lines, ""]), encoding="utf-8")
    typer.echo(f"{out}: {counted(len(found), 'field')} of {folder}.")
    if locations:
        typer.echo(f"{locations}: predicted locations of {counted(len(found), 'field')}.")
    typer.echo(f"Next: `cytoloc info {out}`.")
