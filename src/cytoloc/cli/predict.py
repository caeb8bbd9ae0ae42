"""The command ``cytoloc predict``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cytoloc.cli.console import as_flags, counted, note, progress, require_nets, warn_if_unfinished
from cytoloc.memory import keep_freed_memory

if TYPE_CHECKING:
    from cytoloc.predictions import Predictions

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
Engine = Annotated[
    Literal["auto", "torch", "openvino", "onnx"],
    typer.Option(
        help="Library that computes the networks. openvino and onnx (ONNX Runtime) are faster on a CPU. auto takes the"
        " fastest one that is installed and gives the probabilities of torch."
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
    table: Annotated[
        Path | None,
        typer.Option(
            help="Also write a table for people, with names, probabilities and cautions, to this new .csv or .xlsx"
            " file."
        ),
    ] = None,
    table_rows: Annotated[
        Literal["fields", "locations"],
        typer.Option(
            help="Rows of --table: one per field, or one per field and location, with its threshold and Gene Ontology"
            " term."
        ),
    ] = "fields",
    batch_size: Annotated[int, typer.Option(help="Number of fields per batch.", min=1)] = 16,
    device: Annotated[
        str | None,
        typer.Option(help="Device to compute on: cuda, cuda:1, mps or cpu. Default: the fastest one available."),
    ] = None,
    precision: PrecisionName = "float32",
    engine: Engine = "auto",
    strict_inputs: Annotated[
        bool,
        typer.Option(
            "--strict-inputs",
            help="Stop at the first field whose image is unlike the training images, instead of marking it.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Decide on the locations of fields whose images are unlike the training images."),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first field that cannot be read, instead of skipping it.")
    ] = False,
) -> None:
    """Predict the probability of every location for every field.

    A bundle knows its training images. Fields whose images are unlike them, for example because a channel is blank, are
    predicted, but the column caution says what is unusual, and no location is decided.

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
    from cytoloc.report.prediction_tables import check_table_path, write_table

    check_predictions_path(out)
    if strict_inputs and force:
        raise SettingsError("--strict-inputs and --force exclude each other.", hint="Give one of them.")
    substitutes = parse_substitutes(absent or [])
    listed = out.with_name(f"{out.stem}.{QUARANTINE}")
    if table:
        check_table_path(table)
    outputs = [each for each in (out, locations, table) if each]
    check_outputs(*outputs, listed)
    sources = [open_source(path) for path in inputs]
    for source in sources:
        if isinstance(source, DatasetSource):
            warn_if_unfinished(source.dataset)
    # Networks take seconds to import, so the arguments are checked before.
    from cytoloc.predict.loading import load
    from cytoloc.predict.model_info import Unusual

    unusual: Unusual = "refuse" if strict_inputs else "decide" if force else "mark"
    loaded = load(model, device=device, precision=precision, engine=engine, unusual=unusual)
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
            strict=strict,
            progress=advance,
        )
    with new_files(*outputs) as temporary:
        write_predictions(found, temporary[out])
        if locations and found.decided is not None:
            write_locations(found.ids, found.decided, temporary[locations], found.label_set)
        if table:
            files = {name: source.name for source in sources for name in source.ids}
            write_table(found, temporary[table], layout=table_rows, files=files)
    views = counted(found.provenance["tta"], "view")
    by = f"{counted(len(loaded.networks), 'network')}, {views}{' each' * (found.provenance['tta'] > 1)}"
    on = f"{loaded.device} with {found.provenance['engine']}"
    typer.echo(f"{out}: {counted(len(found), 'field')} predicted by {by}, on {on}.")
    if locations:
        typer.echo(f"{locations}: predicted locations of {counted(len(found), 'field')}.")
    if table:
        typer.echo(f"{table}: table with one row per {'field' if table_rows == 'fields' else 'field and location'}.")
    if loaded.decision is not None and (locations or table):
        typer.echo(f"Next: look at the predictions, for example with `cytoloc show DATASET --predictions {out}`.")
    elif loaded.decision is not None:
        typer.echo("Next: predict again with --table locations.csv to read the locations by name.")
    else:
        typer.echo("Next: fit thresholds with `cytoloc decide fit`, or apply them with `cytoloc decide apply`.")
    if found.caution:
        note(found.caution)
    if found.n_cautions:
        _note_cautions(found, decided=force)
    if found.rejected:
        bad = [Rejected(name, reason) for name, reason in found.rejected.items()]
        write_quarantine(bad, listed)
        note(f"{counted(len(bad), 'field')} could not be read; {listed} gives the reasons.")
        for name, reason in examples(bad):
            typer.echo(as_flags(f"  {name}: {reason}"), err=True)


def _note_cautions(found: Predictions, *, decided: bool) -> None:
    """Print how many fields are unusual, and why."""
    reasons = Counter(text for text in found.cautions if text)
    undecided = "" if decided or found.decided is None else " No location was decided for them; --force decides."
    note(f"The images of {counted(found.n_cautions, 'field')} are unlike the training images.{undecided}")
    for reason, count in reasons.most_common(5):
        typer.echo(f"  {counted(count, 'field')}: {reason}", err=True)
