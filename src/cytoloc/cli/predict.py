"""The command ``cytoloc predict``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cytoloc.choices import Resample
from cytoloc.cli.console import as_flags, counted, note, progress, require_nets, warn_if_unfinished
from cytoloc.cli.members import Strict
from cytoloc.cli.streaming import PART_FIELDS, parse_shard, parse_share, predict_into_parts
from cytoloc.errors import FailedFieldsError, SettingsError
from cytoloc.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cytoloc.predict.model import Model
    from cytoloc.predict.model_info import Unusual
    from cytoloc.predict.sources import Source
    from cytoloc.predict.streaming import StreamOptions

ModelPath = Annotated[
    Path,
    typer.Argument(
        help="Model: builtin (comes with cytoloc; with fewer channels builtin-protein-nucleus or builtin-protein), a"
        " bundle (.cytoloc), a run, or a folder of runs to average.",
        metavar="MODEL",
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option(help="Device to compute on: cuda, cuda:1, mps or cpu. Default: the fastest one available."),
]
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
    Literal["float32", "bfloat16", "float16", "int8"],
    typer.Option(
        help="Precision of the network. 16-bit precision is faster on GPUs. int8 is faster on a CPU, and needs a bundle"
        " with int8 networks."
    ),
]
Engine = Annotated[
    Literal["auto", "torch", "openvino", "onnx"],
    typer.Option(
        help="Library that computes the networks. openvino and onnx (ONNX Runtime) are faster on a CPU. auto takes the"
        " fastest one that is installed and gives the probabilities of torch."
    ),
]
ResampleOption = Annotated[
    Resample | None,
    typer.Option(
        help="How larger images are scaled down: by area means or by the nearest pixel. Default: as the images that the"
        " model was trained on, or by area if that is unknown."
    ),
]
Out = Annotated[
    str,
    typer.Option(
        help="New predictions file (.parquet), or a folder or URL (s3://, gs://) for parts. Use a folder for many"
        " fields: rerun a stopped command, and it continues."
    ),
]
LocationsOut = Annotated[
    Path | None,
    typer.Option(
        help="Also write the predicted locations to this new CSV file with columns Id,Predicted. The model must"
        " have a decision: a built-in model, or a bundle with one."
    ),
]
TableOut = Annotated[
    Path | None,
    typer.Option(
        help="Also write a table for people, with names, probabilities and cautions, to this new .csv or .xlsx file."
    ),
]
TableRows = Annotated[
    Literal["fields", "locations"],
    typer.Option(
        help="Rows of --table: one per field, or one per field and location, with its threshold and Gene Ontology term."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Number of fields per batch.", min=1)]
PartFields = Annotated[int, typer.Option(help="Number of fields per part, if --out is a folder.", min=1)]
Shard = Annotated[
    str,
    typer.Option(
        help="Share of the parts to predict, such as 2/8, for the jobs of a cluster that write to one folder.",
        metavar="I/N",
    ),
]
RayCount = Annotated[
    int | None,
    typer.Option(
        help="Number of Ray workers that predict the parts, if --out is a folder. RAY_ADDRESS gives the address of"
        " a running cluster; without it, Ray runs on this machine. Default: predict in this process.",
        min=1,
        metavar="N",
    ),
]
RayCpus = Annotated[float, typer.Option(help="CPU cores of each Ray worker; can be a fraction.")]
RayGpus = Annotated[
    float, typer.Option(help="GPUs of each Ray worker; with a fraction, such as 0.25, workers share a GPU.")
]
MaxFailed = Annotated[
    str,
    typer.Option(
        help="Largest share of fields that may be unreadable, such as 1%. With more, the exit code is 3.",
        metavar="SHARE",
    ),
]
JsonLog = Annotated[bool, typer.Option("--json-log", help="Print the progress as lines of JSON, if --out is a folder.")]
MetricsFile = Annotated[
    Path | None,
    typer.Option(help="File that is updated with metrics for Prometheus, if --out is a folder."),
]
StrictInputs = Annotated[
    bool,
    typer.Option(
        "--strict-inputs",
        help="Stop at the first field whose image is unlike the training images, instead of marking it.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Also predict locations of fields whose images are unlike the training images."),
]
Uncalibrated = Annotated[
    bool,
    typer.Option(
        "--uncalibrated",
        help="Write the probabilities of the networks, without the calibration by the decision of a bundle. `cytoloc"
        " decide fit` and `cytoloc ensemble` need these.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("predict")(predict)


def predict(
    model: ModelPath,
    inputs: Inputs,
    out: Out,
    tta: Tta = None,
    absent: Absent = None,
    locations: LocationsOut = None,
    table: TableOut = None,
    table_rows: TableRows = "fields",
    batch_size: BatchSize = 16,
    device: DeviceName = None,
    precision: PrecisionName = "float32",
    engine: Engine = "auto",
    part_fields: PartFields = PART_FIELDS,
    shard: Shard = "1/1",
    ray: RayCount = None,
    ray_cpus: RayCpus = 1.0,
    ray_gpus: RayGpus = 0.0,
    max_failed: MaxFailed = "100%",
    json_log: JsonLog = False,
    metrics_file: MetricsFile = None,
    strict_inputs: StrictInputs = False,
    force: Force = False,
    uncalibrated: Uncalibrated = False,
    resample: ResampleOption = None,
    strict: Strict = False,
) -> None:
    """Predict the probability of every location for every field.

    A bundle marks images that are unlike its training images, for example because a channel is blank. The column
    caution says what is unusual. Such fields get probabilities, but no location is predicted for them.

    Fields that cannot be read are skipped and listed, with the reason, in a CSV file next to the predictions. Image
    files in other layouts must be imported first, with `cytoloc import folder`.

    Example: `cytoloc predict runs/ test.dataset --out predictions.parquet`

    Example: `cytoloc predict builtin images/ --out predictions.parquet --locations locations.csv`

    Example: `cytoloc predict model.cytoloc 'plates/*.dataset' --out predictions/ --shard 2/8`

    Example: `cytoloc predict builtin-protein-nucleus two-channels.dataset --out predictions.parquet`
    """
    require_nets()
    keep_freed_memory()
    from cytoloc.predict.planes import parse_substitutes
    from cytoloc.predict.sources import DatasetSource, open_sources

    if strict_inputs and force:
        raise SettingsError("--strict-inputs and --force exclude each other.", hint="Give one of them.")
    part, share, substitutes = parse_shard(shard), parse_share(max_failed), parse_substitutes(absent or [])
    for_parts = shard != "1/1" or part_fields != PART_FIELDS or json_log or metrics_file is not None
    into_parts = _check_outputs(
        out, locations, table, for_file=strict, for_parts=for_parts, ray=ray is not None, device=device
    )
    sources = open_sources(inputs)
    for source in sources:
        if isinstance(source, DatasetSource):
            warn_if_unfinished(source.dataset)
    # Networks take seconds to import, so arguments and inputs are checked before.
    from cytoloc.predict.cluster import RayWorkers
    from cytoloc.predict.loading import load
    from cytoloc.predict.streaming import StreamOptions

    options = StreamOptions(
        part_fields=part_fields,
        shard=part,
        max_failed=share,
        absent=substitutes,
        tta=int(tta) if tta else None,
        batch_size=batch_size,
        precision=precision,
    )
    if ray:
        # Workers of Ray load the model on their own devices, in the precision of the options.
        device, precision = "cpu", "float32"
    unusual: Unusual = "refuse" if strict_inputs else "decide" if force else "mark"
    loaded = load(model, device=device, precision=precision, engine=engine, unusual=unusual, resample=resample)
    loaded = loaded.without_decision() if uncalibrated else loaded
    if locations and loaded.decision is None:
        why = "--uncalibrated was given" if uncalibrated else "it contains no decision"
        raise SettingsError(
            f"{model} predicts probabilities but no locations, because {why}.",
            hint="Remove --locations, and then run `cytoloc decide apply`.",
        )
    if into_parts:
        workers = RayWorkers(count=ray, cpus=ray_cpus, gpus=ray_gpus) if ray else None
        predict_into_parts(loaded, sources, out, options, workers=workers, json_log=json_log, metrics_file=metrics_file)
    else:
        _predict_into_files(loaded, sources, (Path(out), locations, table), options, rows=table_rows, strict=strict)


def _check_outputs(
    out: str,
    locations: Path | None,
    table: Path | None,
    *,
    for_file: bool,
    for_parts: bool,
    ray: bool,
    device: str | None,
) -> bool:
    """Return whether predictions are written as parts into a folder.

    Args:
        out: The option --out.
        locations: The new CSV file of locations.
        table: The new table.
        for_file: Whether another option needs one file.
        for_parts: Whether another option needs parts.
        ray: Whether Ray workers predict. They write parts, and have devices of their own.
        device: The option --device.

    Raises:
        SettingsError: If the options contradict each other.
        OutputExistsError: If a file exists already.
    """
    from cytoloc.files import check_outputs
    from cytoloc.prediction_files import check_predictions_path
    from cytoloc.report.prediction_tables import check_table_path

    is_folder = "://" in out or Path(out).suffix == ""
    if "://" in out and Path(out).suffix:
        raise SettingsError(
            f"{out} is a URL, but only folders of parts can be written to URLs.",
            hint=f"Choose a folder, such as {out.removesuffix(Path(out).suffix)}, or a local file.",
        )
    if is_folder and (for_file or locations or table):
        raise SettingsError(
            "--locations, --table and --strict need one predictions file, but --out is a folder.",
            hint="Choose --out predictions.parquet. For locations, run `cytoloc merge --locations` afterwards.",
        )
    if ray and (not is_folder or device):
        raise SettingsError(
            "--ray predicts parts into a folder, on the devices of its workers.",
            hint="Give a folder or URL to --out, and --ray-gpus instead of --device.",
        )
    if not is_folder and for_parts:
        raise SettingsError(
            "--shard, --part-fields, --json-log and --metrics-file need a folder, but --out is one file.",
            hint="Choose for example --out predictions/.",
        )
    if not is_folder:
        check_predictions_path(Path(out))
        if table:
            check_table_path(table)
        check_outputs(*(each for each in (Path(out), locations, table, _quarantine_path(Path(out))) if each))
    return is_folder


def _predict_into_files(
    model: Model,
    sources: Sequence[Source],
    paths: tuple[Path, Path | None, Path | None],
    options: StreamOptions,
    *,
    rows: Literal["fields", "locations"],
    strict: bool,
) -> None:
    """Predict into a predictions file, and CSV files of locations and a table if they have paths; all or none."""
    from cytoloc.dataset.quarantine import Rejected, examples, write_quarantine
    from cytoloc.files import new_files
    from cytoloc.labels.lists import write_locations
    from cytoloc.predict.sources import DatasetSource
    from cytoloc.prediction_files import write_predictions
    from cytoloc.predictions import training_caution
    from cytoloc.report.prediction_tables import check_table_rows, write_table

    out, locations, table = paths
    if table:
        per_field = len(model.label_set) if rows == "locations" else 1
        check_table_rows(table, per_field * sum(len(source.ids) for source in sources))
    with progress("Predicting") as advance:
        found = model.predict_sources(
            sources,
            absent=options.absent,
            tta=options.tta,
            batch_size=options.batch_size,
            strict=strict,
            progress=advance,
        )
    with new_files(*[path for path in paths if path]) as temporary:
        write_predictions(found, temporary[out])
        if locations and found.decided is not None:
            write_locations(found.ids, found.decided, temporary[locations], found.label_set)
        if table:
            files = {name: source.name for source in sources for name in source.ids}
            write_table(found, temporary[table], layout=rows, files=files)
    views, row = counted(found.provenance["tta"], "view"), "field" if found.cells is None else "cell"
    by = f"{counted(len(model.networks), 'network')}, {views}{' each' * (found.provenance['tta'] > 1)}"
    typer.echo(f"{out}: {counted(len(found), row)} predicted by {by}, on {model.device} with {model.engine}.")
    if locations:
        typer.echo(f"{locations}: predicted locations of {counted(len(found), row)}.")
    if table:
        typer.echo(f"{table}: table with one row per {row if rows == 'fields' else f'{row} and location'}.")
    if model.decision is not None and (locations or table):
        datasets = [
            source.name
            for source in sources
            if isinstance(source, DatasetSource) and source.dataset.label_set == found.label_set
        ]
        also = f", or see the images: cytoloc show {datasets[0]} --predictions {out}" if datasets else "."
        typer.echo(f"Next: open {table or locations}{also}")
    elif model.decision is not None:
        typer.echo("Next: predict again with --table locations.csv to read the locations by name.")
    else:
        typer.echo("Next: fit thresholds with `cytoloc decide fit`, or apply them with `cytoloc decide apply`.")
    if found.caution:
        note(as_flags(found.caution))
    if found.provenance.get("fields_maybe_trained_on"):
        note(training_caution(found))
    if found.n_cautions:
        decided = model.unusual == "decide" or found.decided is None
        undecided = "" if decided else " No location is predicted for them, except with --force."
        note(f"The images of {counted(found.n_cautions, row)} are unlike the training images.{undecided}")
        for reason, count in Counter(text for text in found.cautions if text).most_common(5):
            typer.echo(f"  {counted(count, row)}: {reason}", err=True)
    if found.rejected:
        bad = [Rejected(name, reason) for name, reason in found.rejected.items()]
        write_quarantine(bad, _quarantine_path(out))
        note(f"{counted(len(bad), row)} could not be read; {_quarantine_path(out)} gives the reasons.")
        for name, reason in examples(bad):
            typer.echo(as_flags(f"  {name}: {reason}"), err=True)
    if len(found.rejected) > options.max_failed * (len(found) + len(found.rejected)):
        raise FailedFieldsError(
            f"{len(found.rejected)} {row}s could not be read, more than the allowed share of {options.max_failed:.2%}."
        )


def _quarantine_path(out: Path) -> Path:
    """Return the file that lists the fields that could not be read."""
    return out.with_name(f"{out.stem}.quarantine.csv")
