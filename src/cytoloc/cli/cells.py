"""The commands ``cytoloc segment`` and ``cytoloc aggregate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cytoloc.cli.console import counted, note, progress, require_nets, terminated_as_interrupted
from cytoloc.memory import keep_freed_memory

if TYPE_CHECKING:
    import polars as pl

    from cytoloc.cells.methods import Method
    from cytoloc.dataset.importing import Imported
    from cytoloc.dataset.store import Dataset


Fields = Annotated[
    Path,
    typer.Argument(
        help="Dataset of fields, folder of image files, or one file with all channels (needs --channels).",
        metavar="INPUT",
    ),
]
MethodOption = Annotated[
    Literal["instanseg", "classical", "labels", "hpa"] | None,
    typer.Option(
        help="Method: instanseg (a network), classical (needs no weights, less accurate), labels (the label images"
        " of another program) or hpa (the networks of HPA-Cell-Segmentation). Default: labels with --labels,"
        " hpa with --hpa-nuclei, otherwise instanseg."
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Weights of InstanSeg, the file instanseg.pt. Default: they are downloaded once (21 MB)."),
]
HpaNuclei = Annotated[Path | None, typer.Option(help="With --method hpa: network of nuclei, dpn_unet_nuclei_v1.pth.")]
HpaCells = Annotated[
    Path | None, typer.Option(help="With --method hpa: network of cells, such as dpn_unet_cell_3ch_v1.pth.")
]
LabelsFolder = Annotated[Path | None, typer.Option(help="Folder of the label images of another program.")]
CellLabelsPattern = Annotated[
    str,
    typer.Option(help="Path of the label image of cells, relative to --labels. {id} stands for the id of the field."),
]
NucleusLabelsPattern = Annotated[
    str | None,
    typer.Option(help="Path of the label image of nuclei, relative to --labels. Default: nuclei are unknown."),
]
PixelSize = Annotated[
    float | None,
    typer.Option(help="Pixel size of the fields in micrometers. Default: as the dataset or the files state it."),
]
Channels = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=PATTERN or NAME=CHANNEL of each channel, as for `cytoloc import folder`. Not needed for"
        " datasets, and for files named as by Kaggle or the Human Protein Atlas."
    ),
]
Size = Annotated[int, typer.Option(help="Edge length of the images of cells, in pixels.", min=32, max=2048)]
WindowUm = Annotated[
    float | None, typer.Option(help="Edge length of the square around a cell, in micrometers. Default: 51.2.")
]
WindowPx = Annotated[int | None, typer.Option(help="Edge length of the square around a cell, in pixels of the field.")]
Unmasked = Annotated[
    bool, typer.Option("--unmasked", help="Keep pixels outside the cell, instead of making them black.")
]
Keep = Annotated[
    Literal["all", "nucleated", "single"] | None,
    typer.Option(
        "--keep",
        help="Cells to keep: all, those with a nucleus (nucleated), or those with exactly one nucleus (single)."
        " Default: nucleated; all with --labels.",
    ),
]
DropBorder = Annotated[bool, typer.Option("--drop-border", help="Leave out cells that touch the border of the field.")]
Turn = Annotated[bool, typer.Option("--turn", help="Turn each cell so that its long axis is horizontal.")]
Sheet = Annotated[Path | None, typer.Option(help="New PNG file: six fields with the outlines of cells and nuclei.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CellPredictions = Annotated[
    Path, typer.Argument(help="Predictions of cells, from `cytoloc predict`.", metavar="PREDICTIONS")
]
GroupsOut = Annotated[Path, typer.Option(help="New predictions file with a row per group (.parquet).")]
By = Annotated[
    Literal["field", "well", "antibody", "gene"],
    typer.Option(help="Groups of cells that are aggregated: all cells of a field, well, antibody or gene."),
]
CellsDataset = Annotated[
    Path | None,
    typer.Option(
        help="Dataset of the cells. Needed for wells, antibodies and genes, for --attention, and for columns of the"
        " dataset as --weights."
    ),
]
PoolingOption = Annotated[
    Literal["mean", "max", "top", "weighted"],
    typer.Option(
        help="How the probabilities of the cells of a group are combined. mean; max; top: the mean of the cells"
        " with the highest probability (--top); weighted: the mean weighted by --weights or --attention."
    ),
]
Top = Annotated[
    float, typer.Option(help="With --method top: share of the cells with the highest probability.", min=0, max=1)
]
CellWeights = Annotated[
    str | None,
    typer.Option(
        help="With --method weighted: a column with the weight of each cell, such as area; or a CSV file with the"
        " columns id and weight.",
        metavar="COLUMN|FILE",
    ),
]
Attention = Annotated[
    Path | None,
    typer.Option(help="With --method weighted: model with an attention head, whose attention weights the cells."),
]
DecisionFile = Annotated[
    Path | None, typer.Option(help="Decision that says which cells have a location, from `cytoloc decide fit`.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Probability from which a cell has a location. Default: --decision, or the thresholds of the model;"
        " 0.5 without both.",
        min=0,
        max=1,
    ),
]
MinCells = Annotated[int, typer.Option(help="Groups with fewer cells are left out.", min=1)]
LocationsTable = Annotated[
    Path | None,
    typer.Option(help="New CSV file: a row per group and location, with the share of cells and its interval."),
]
GroupsTable = Annotated[
    Path | None,
    typer.Option(
        help="New CSV file: a row per group, with the number of cells, and how much they differ (entropy and"
        " variation)."
    ),
]
AnnDataFile = Annotated[Path | None, typer.Option(help="New AnnData file with a row per cell, for scanpy and squidpy.")]
Submission = Annotated[
    Path | None,
    typer.Option(help="New CSV file of all cells as a submission to the 2021 Kaggle competition. Needs --cells."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("segment")(terminated_as_interrupted()(segment))
    app.command("aggregate")(aggregate)


def segment(
    inputs: Fields,
    out: Annotated[Path, typer.Option(help="New dataset of cells.")],
    method: MethodOption = None,
    weights: Weights = None,
    hpa_nuclei: HpaNuclei = None,
    hpa_cells: HpaCells = None,
    labels: LabelsFolder = None,
    cell_labels: CellLabelsPattern = "{id}_cells.tif",
    nucleus_labels: NucleusLabelsPattern = None,
    pixel_um: PixelSize = None,
    channels: Channels = None,
    size: Size = 256,
    window_um: WindowUm = None,
    window_px: WindowPx = None,
    unmasked: Unmasked = False,
    kept: Keep = None,
    drop_border: DropBorder = False,
    turned: Turn = False,
    sheet: Sheet = None,
    as_json: AsJson = False,
) -> None:
    """Segment the cells of fields into a dataset with a row and an image per cell.

    The folder of the dataset also has fields.parquet, the table of all cells, and labels/, a label image per field.
    Use it like any other dataset, for example with `cytoloc predict`. Rerun a stopped command, and it continues.

    Example: `cytoloc segment plate7 --pixel-um 0.08 --out plate7-cells --sheet outlines.png`
    """
    keep_freed_memory()
    from cytoloc.cells.crops import CropOptions
    from cytoloc.cells.outlines import outline_sheet
    from cytoloc.cells.segmenting import run_segmentation
    from cytoloc.files import check_outputs

    if sheet is not None:
        check_outputs(sheet)
    crops = CropOptions(
        size=size,
        window_um=window_um,
        window_px=window_px,
        masked=not unmasked,
        kept=kept,
        border="drop" if drop_border else "keep",
        turned=turned,
    )
    chosen = _segmentation_method(
        method,
        weights=weights,
        hpa_nuclei=hpa_nuclei,
        hpa_cells=hpa_cells,
        labels=labels,
        cell_labels=cell_labels,
        nucleus_labels=nucleus_labels,
    )
    listed = [each.strip() for some in channels for each in some.split(",")] if channels else None
    with progress("Segmenting") as advance:
        imported = run_segmentation(
            inputs, out, method=chosen, crops=crops, pixel_um=pixel_um, channels=listed, progress=advance
        )
    _print_cells(imported, as_json=as_json)
    if sheet is not None:
        drawn = outline_sheet(imported.dataset, inputs, sheet, channels=listed)
        if not as_json:
            typer.echo(f"{sheet}: outlines of {counted(len(drawn), 'field')}.")


def _segmentation_method(
    method: str | None,
    *,
    weights: Path | None,
    hpa_nuclei: Path | None,
    hpa_cells: Path | None,
    labels: Path | None,
    cell_labels: str,
    nucleus_labels: str | None,
) -> Method:
    """Return the method that the options mean; raise if they contradict each other."""
    from cytoloc.cells.hpa_segmentation import HpaSegmentation
    from cytoloc.cells.methods import Classical, InstanSeg, LabelFiles
    from cytoloc.errors import SettingsError

    files = {"instanseg": weights, "labels": labels, "hpa": hpa_nuclei or hpa_cells}
    options = {"instanseg": "--weights", "labels": "--labels", "hpa": "--hpa-nuclei or --hpa-cells"}
    name = method or next((each for each in ("labels", "hpa") if files[each] is not None), "instanseg")
    for other, file in files.items():
        if file is not None and other != name:
            raise SettingsError(f"{options[other]} is given, but --method is {name}.", hint="Remove one of them.")
    if name == "labels":
        if labels is None:
            raise SettingsError("--method labels needs --labels.", hint="Give the folder of the label images.")
        return LabelFiles(folder=labels, cells=cell_labels, nuclei=nucleus_labels)
    if name == "hpa":
        if hpa_nuclei is None or hpa_cells is None:
            raise SettingsError(
                "--method hpa needs --hpa-nuclei and --hpa-cells.", hint="Give the files of the authors."
            )
        return HpaSegmentation(nuclei=hpa_nuclei, cells=hpa_cells)
    return Classical() if name == "classical" else InstanSeg(weights=weights)


def _print_cells(imported: Imported, *, as_json: bool) -> None:
    """Print what a segmentation found."""
    from cytoloc.cells.measures import CELL_FLAGS

    cells = imported.dataset
    table = cells.fields
    of_fields, with_nucleus = table["field"].n_unique(), int((table["nuclei"] > 0).sum())
    is_known = not table["nuclei"].is_null().all()
    flags = {flag: int(table["flags"].list.contains(flag).sum()) for flag in CELL_FLAGS}
    if as_json:
        facts = {
            "cells": len(cells),
            "fields": of_fields,
            "with_nucleus": with_nucleus if is_known else None,
            "flags": flags,
            "median_area_um2": table["area_um2"].median(),
            "rejected": [{"id": each.id, "reason": each.reason} for each in cells.quarantine],
            "notes": list(imported.notes),
        }
        typer.echo(json.dumps(facts, indent=2))
    else:
        nuclei = f", {with_nucleus} with a nucleus" if is_known else ""
        typer.echo(f"{imported.path}: {counted(len(cells), 'cell')} of {counted(of_fields, 'field')}{nuclei}.")
        if any(flags.values()):
            typer.echo(f"Flags: {', '.join(f'{flag} {count}' for flag, count in flags.items() if count)}.")
        for said in imported.notes:
            note(said)
        if cells.quarantine:
            note(
                f"{counted(len(cells.quarantine), 'field')} could not be segmented; see {imported.path}/quarantine.csv:"
            )
            for bad in imported.examples:
                note(f"  {bad.id}: {bad.reason}")


def aggregate(
    predictions: CellPredictions,
    out: GroupsOut,
    by: By = "field",
    cells: CellsDataset = None,
    method: PoolingOption = "mean",
    top: Top = 0.25,
    weights: CellWeights = None,
    attention: Attention = None,
    decision: DecisionFile = None,
    threshold: Threshold = None,
    min_cells: MinCells = 1,
    table: LocationsTable = None,
    groups: GroupsTable = None,
    h5ad: AnnDataFile = None,
    submission: Submission = None,
) -> None:
    """Aggregate predictions of cells to fields, wells, antibodies or genes.

    Example: `cytoloc aggregate cells.parquet --by gene --cells plate7-cells --table genes.csv --out genes.parquet`
    """
    from cytoloc.cells.aggregation import aggregate_cells, cell_anndata
    from cytoloc.cells.competition import submitted_cells, write_cell_submission
    from cytoloc.dataset.store import open_dataset
    from cytoloc.decide.decision import read_decision
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_files
    from cytoloc.prediction_files import check_predictions_path, read_predictions, write_predictions

    if method != "weighted" and (weights is not None or attention is not None):
        raise SettingsError(
            "--weights and --attention need --method weighted.", hint="Add --method weighted, or remove the weights."
        )
    if method == "weighted" and weights is None and attention is None:
        raise SettingsError("--method weighted needs --weights or --attention.", hint="Give one of them.")
    if submission is not None and cells is None:
        raise SettingsError("--submission needs --cells, which has the masks.", hint="Give the dataset of cells.")
    check_predictions_path(out)
    outputs = [each for each in (out, table, groups, h5ad, submission) if each]
    check_outputs(*outputs)
    if h5ad is not None and h5ad.suffix != ".h5ad":
        raise SettingsError(
            f"{h5ad} is not a valid name for an AnnData file.", hint="Choose a name that ends in .h5ad."
        )
    given = read_predictions(predictions)
    if submission is not None:
        submitted_cells(given)
    dataset = None if cells is None else open_dataset(cells)
    decided = given if decision is None else read_decision(decision)(given)
    found = aggregate_cells(
        decided,
        by=by,
        method=method,
        top=top,
        weights=_weights(weights, attention, dataset),
        threshold=threshold,
        min_cells=min_cells,
        cells=dataset,
    )
    facts = found.predictions.provenance["aggregated"]
    if attention is not None or weights is not None:
        facts["weights"] = weights if attention is None else f"attention of {attention}"
    with new_files(*outputs) as temporary:
        write_predictions(found.predictions, temporary[out])
        for path, rows in ((table, found.locations), (groups, found.groups)):
            if path is not None:
                rows.write_csv(temporary[path], float_precision=4)
        if h5ad is not None:
            cell_anndata(decided, cells=dataset).write_h5ad(temporary[h5ad])
        if submission is not None and dataset is not None:
            write_cell_submission(given, dataset, temporary[submission])
    typer.echo(f"{out}: {counted(len(given), 'cell')} aggregated to {counted(len(found.predictions), by)} by {method}.")
    without = facts["cells_without_group"]
    if without:
        note(f"{counted(without, 'cell')} without a known {by} left out.")
    if found.left_out:
        note(f"{counted(len(found.left_out), by)} with fewer than {counted(min_cells, 'cell')} left out.")
    for path, rows in ((table, found.locations), (groups, found.groups)):
        if path is not None:
            typer.echo(f"{path}: {counted(rows.height, 'row')}.")
    if h5ad is not None:
        typer.echo(f"{h5ad}: {counted(len(given), 'cell')}.")
    if submission is not None:
        typer.echo(f"{submission}: masks of {counted(len(given), 'cell')}.")


def _weights(column: str | None, model: Path | None, cells: Dataset | None) -> str | pl.DataFrame | None:
    """Return the weights of cells that the options mean: a column, a table, or the attention of a model."""
    from cytoloc.errors import SettingsError
    from cytoloc.labels.lists import read_csv

    if column is not None and model is not None:
        raise SettingsError("--weights and --attention both give the weights.", hint="Give one of them.")
    if model is not None:
        require_nets()
        from cytoloc.embed.attention import attention_weights
        from cytoloc.predict.loading import load

        if cells is None:
            raise SettingsError(
                "--attention needs --cells, the images of the cells.", hint="Give the dataset of cells."
            )
        return attention_weights(load(model, engine="torch"), cells)
    return read_csv(Path(column)) if column is not None and column.endswith(".csv") else column
