"""The command ``cytoloc predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.choices import Resample
from cytoloc.cli.console import as_flags, counted, note, progress, require_nets, warn_if_unfinished
from cytoloc.memory import keep_freed_memory

Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Datasets (folders or URLs), or folders of image files {Id}_{red,green,blue,yellow}.png or .tif. The"
        " images must be at least as large as those that the model was trained on.",
        metavar="INPUT…",
    ),
]
Tta = Annotated[
    Literal["1", "2", "4", "8"] | None,
    typer.Option(
        help="Number of test-time augmentation views that are averaged for each field. Default: the number that the"
        " model states."
    ),
]
Absent = Annotated[
    list[str] | None,
    typer.Option(
        help="Substitute for a channel that was not imaged: zero for a black image, or a copy of another channel. Can"
        " be repeated.",
        metavar="CHANNEL=zero|OTHER",
    ),
]
PrecisionName = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(help="Floating-point precision of the network. 16-bit precision is faster on GPUs."),
]


ResampleOption = Annotated[
    Resample | None,
    typer.Option(
        help="How larger images are scaled down: by area means or by the nearest pixel. Default: as the images that the"
        " model was trained on, or by area if that is unknown."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("predict")(predict)


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="Model: builtin (comes with cytoloc), a bundle (.cytoloc), a run, or a folder of runs to average.",
            metavar="MODEL",
        ),
    ],
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="New predictions file (.parquet).")],
    tta: Tta = None,
    absent: Absent = None,
    locations: Annotated[
        Path | None,
        typer.Option(
            help="Also write the predicted locations to this new CSV file with columns Id,Predicted. The model must be"
            " a bundle with a decision."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Number of fields per batch.", min=1)] = 16,
    device: Annotated[
        str | None,
        typer.Option(help="Device to compute on: cuda, cuda:1, mps or cpu. Default: the fastest one available."),
    ] = None,
    precision: PrecisionName = "float32",
    resample: ResampleOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first field that cannot be read, instead of skipping it.")
    ] = False,
) -> None:
    """Predict the probability of every location for every field.

    Fields that cannot be read are skipped and listed, with the reason, in a CSV file next to the predictions. Image
    files in other layouts must be imported first, with `cytoloc import folder`.

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
            f"{model} contains no decision, so it predicts probabilities but no locations.",
            hint="Remove --locations, and then run `cytoloc decide apply`.",
        )
    with progress("Predicting fields") as advance:
        found = loaded.predict_sources(
            sources,
            absent=substitutes,
            tta=int(tta) if tta else None,
            batch_size=batch_size,
            resample=resample,
            strict=strict,
            progress=advance,
        )
    with new_files(*outputs) as temporary:
        write_predictions(found, temporary[out])
        if locations and found.decided is not None:
            write_locations(found.ids, found.decided, temporary[locations], found.label_set)
    views = counted(found.provenance["tta"], "view")
    by = f"{counted(len(loaded.networks), 'network')}, {views}{' each' * (found.provenance['tta'] > 1)}"
    typer.echo(f"{out}: {counted(len(found), 'field')} predicted by {by}, on {loaded.device}.")
    if locations:
        typer.echo(f"{locations}: predicted locations of {counted(len(found), 'field')}.")
    elif loaded.decision is not None:
        typer.echo("Next: predict again with --locations FILE to write the locations.")
    else:
        typer.echo("Next: fit thresholds with `cytoloc decide fit`, or apply them with `cytoloc decide apply`.")
    if found.caution:
        note(as_flags(found.caution))
    if found.rejected:
        bad = [Rejected(name, reason) for name, reason in found.rejected.items()]
        write_quarantine(bad, listed)
        note(f"{counted(len(bad), 'field')} could not be read; {listed} gives the reasons.")
        for name, reason in examples(bad):
            typer.echo(as_flags(f"  {name}: {reason}"), err=True)
