"""The command predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import counted, progress, require_nets, warn_if_unfinished
from cytoloc.memory import keep_freed_memory


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("predict")(predict)


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="builtin, the model that comes with cytoloc; a bundle; a run, or a folder of runs to average.",
            metavar="MODEL",
        ),
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Datasets, also at URLs, or folders of {Id}_{red,green,blue,yellow}.png or .tif at any size.",
            metavar="INPUT…",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new predictions file (.parquet).")],
    tta: Annotated[
        Literal["1", "2", "4", "8"] | None,
        typer.Option(help="Flips and turns to average over; by default the recipe's."),
    ] = None,
    absent: Annotated[
        list[str] | None,
        typer.Option(
            help="Substitute for a channel that was not imaged: zero, or another channel. May be repeated.",
            metavar="CHANNEL=zero|OTHER",
        ),
    ] = None,
    locations: Annotated[
        Path | None, typer.Option(help="Also a new CSV Id,Predicted, by the decision of a bundle.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop if a field cannot be read.")] = False,
) -> None:
    """Predict the probability of every location for every field.

    Fields that cannot be read are listed with the reason in a CSV beside the predictions, and the rest is predicted.
    Other
    files than the competition's become a dataset by `cytoloc import folder` first.

    Example: `cytoloc predict runs/ test.dataset --out predictions.parquet`

    Example: `cytoloc predict builtin images/ --out predictions.parquet --locations locations.csv`

    Example: `cytoloc predict builtin two-channels.dataset --absent er=zero --absent microtubules=zero --out
    predictions.parquet`
    """
    require_nets()
    keep_freed_memory()
    from cytoloc.dataset.quarantine import QUARANTINE, examples, write_quarantine
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_files
    from cytoloc.lists import write_locations
    from cytoloc.predict.sources import DatasetSource, open_source
    from cytoloc.prediction_files import check_predictions_path, write_predictions

    check_predictions_path(out)
    substitutes = _substitutes(absent or [])
    listed = out.with_name(f"{out.stem}.{QUARANTINE}")
    outputs = [out, *([locations] if locations else [])]
    check_outputs(*outputs, listed)
    sources = [open_source(path) for path in inputs]
    for source in sources:
        if isinstance(source, DatasetSource):
            warn_if_unfinished(source.dataset)
    # Networks take seconds to import: what is wrong with the call is said before.
    from cytoloc.predict.loading import load

    loaded = load(model)
    if locations and loaded.decision is None:
        raise SettingsError(
            f"{model} has no decision, so it gives probabilities alone.",
            hint="Leave out --locations, and decide with `cytoloc decide apply`.",
        )
    with progress("predicting") as advance:
        predictions, bad = loaded.score(
            *sources, tta=int(tta) if tta else None, absent=substitutes, strict=strict, advance=advance
        )
    with new_files(*outputs) as temporary:
        write_predictions(predictions, temporary[out])
        if locations and loaded.decision:
            write_locations(
                predictions.ids,
                loaded.decision.decided(predictions.probabilities),
                temporary[locations],
                predictions.label_set,
            )
    said = f"{out}: {counted(len(predictions), 'field')}, networks: {len(loaded.networks)}"
    typer.echo(f"{said}, TTA views: {predictions.provenance['tta']}.")
    if loaded.caution:
        typer.secho(loaded.caution, fg="yellow", err=True)
    if bad:
        write_quarantine(bad, listed)
        typer.secho(f"{counted(len(bad), 'field')} could not be read; {listed} says why.", fg="yellow", err=True)
        for name, reason in examples(bad):
            typer.echo(f"  {name}: {reason}", err=True)


def _substitutes(options: list[str]) -> dict[str, str]:
    """Return the substitute of each channel that ``--absent`` names."""
    from cytoloc.errors import SettingsError

    substitutes: dict[str, str] = {}
    for option in (word.strip() for each in options for word in each.split(",")):
        name, sign, substitute = (part.strip() for part in option.partition("="))
        if not (name and sign and substitute) or name in substitutes:
            raise SettingsError(
                f"--absent {option} is not CHANNEL=SUBSTITUTE, or names a channel twice.",
                hint="Write for example --absent er=zero.",
            )
        substitutes[name] = substitute
    return substitutes
