"""The command predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import as_flags, counted, note, progress, require_nets, warn_if_unfinished
from cytoloc.memory import keep_freed_memory

Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Datasets, also at URLs, or folders of {Id}_{red,green,blue,yellow}.png or .tif at any size.",
        metavar="INPUT…",
    ),
]
Tta = Annotated[
    Literal["1", "2", "4", "8"] | None,
    typer.Option(help="Views of test-time augmentation to average over; by default those of the model."),
]
Absent = Annotated[
    list[str] | None,
    typer.Option(
        help="Substitute for a channel that was not imaged: zero, or another channel. May be repeated.",
        metavar="CHANNEL=zero|OTHER",
    ),
]
PrecisionName = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(help="Precision of the arithmetic; 16 bits are faster on GPUs."),
]


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
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="The new predictions file (.parquet).")],
    tta: Tta = None,
    absent: Absent = None,
    locations: Annotated[
        Path | None, typer.Option(help="Also a new CSV Id,Predicted, by the decision of a bundle.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Fields per batch.", min=1)] = 16,
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1, mps or cpu; by default the fastest one available.")
    ] = None,
    precision: PrecisionName = "float32",
    strict: Annotated[bool, typer.Option("--strict", help="Stop if a field cannot be read.")] = False,
) -> None:
    """Predict the probability of every location for every field.

    Fields that cannot be read are listed with the reason in a CSV beside the predictions; the others are predicted.
    Import other files than the competition's first, with `cytoloc import folder`.

    Example: `cytoloc predict runs/ test.dataset --out predictions.parquet`

    Example: `cytoloc predict builtin images/ --out predictions.parquet --locations locations.csv`

    Example: `cytoloc predict builtin two-channels.dataset --absent er=zero --absent microtubules=zero --out
    predictions.parquet`
    """
    require_nets()
    keep_freed_memory()
    from cytoloc.dataset.quarantine import QUARANTINE, Rejected, examples, write_quarantine
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_files
    from cytoloc.labels.lists import write_locations
    from cytoloc.predict.planes import parse_substitutes
    from cytoloc.predict.sources import DatasetSource, open_source
    from cytoloc.prediction_files import check_predictions_path, write_predictions

    check_predictions_path(out)
    substitutes = parse_substitutes(absent or [])
    listed = out.with_name(f"{out.stem}.{QUARANTINE}")
    outputs = [out, *([locations] if locations else [])]
    check_outputs(*outputs, listed)
    sources = [open_source(path) for path in inputs]
    for source in sources:
        if isinstance(source, DatasetSource):
            warn_if_unfinished(source.dataset)
    # Networks take seconds to import, so the arguments are checked before.
    from cytoloc.predict.loading import load

    loaded = load(model, device=device, precision=precision)
    if locations and loaded.decision is None:
        raise SettingsError(
            f"{model} has no decision, so it gives probabilities only.",
            hint="Leave out --locations, and decide with `cytoloc decide apply`.",
        )
    with progress("predicting") as advance:
        found = loaded.predict_sources(
            sources,
            absent=substitutes,
            tta=int(tta) if tta else None,
            batch_size=batch_size,
            strict=strict,
            progress=advance,
        )
    with new_files(*outputs) as temporary:
        write_predictions(found, temporary[out])
        if locations and found.decided is not None:
            write_locations(found.ids, found.decided, temporary[locations], found.label_set)
    made = f"{out}: {counted(len(found), 'field')}, networks: {len(loaded.networks)}"
    typer.echo(f"{made}, TTA views: {found.provenance['tta']}, on {loaded.device}.")
    if found.caution:
        note(found.caution)
    if found.rejected:
        bad = [Rejected(name, reason) for name, reason in found.rejected.items()]
        write_quarantine(bad, listed)
        note(f"{counted(len(bad), 'field')} could not be read; {listed} says why.")
        for name, reason in examples(bad):
            typer.echo(as_flags(f"  {name}: {reason}"), err=True)
