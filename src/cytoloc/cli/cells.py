"""The commands ``cytoloc segment`` and ``cytoloc aggregate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cytoloc.cli.console import counted, note, progress, terminated_as_interrupted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cytoloc.cells.methods import Method
    from cytoloc.dataset.importing import Imported


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("segment")(terminated_as_interrupted()(segment))
    app.command("aggregate")(aggregate)


def segment(
    inputs: Annotated[
        Path,
        typer.Argument(
            help="Dataset of fields, folder of image files, or one file with all channels (needs --channels).",
            metavar="INPUT",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New dataset of cells.")],
    method: Annotated[
        Literal["instanseg", "classical", "labels", "hpa"] | None,
        typer.Option(
            help="Method: the network instanseg, classical without weights (weaker), labels for the label images of"
            " another program, or hpa for the networks of HPA-Cell-Segmentation. Default: labels with --labels, hpa"
            " with --hpa-nuclei, otherwise instanseg."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights of InstanSeg, the file instanseg.pt. Default: they are downloaded once (21 MB)."),
    ] = None,
    hpa_nuclei: Annotated[
        Path | None, typer.Option(help="With --method hpa: network of nuclei, dpn_unet_nuclei_v1.pth.")
    ] = None,
    hpa_cells: Annotated[
        Path | None, typer.Option(help="With --method hpa: network of cells, such as dpn_unet_cell_3ch_v1.pth.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Folder of the label images of another program.")] = None,
    cell_labels: Annotated[
        str, typer.Option(help="Path of the label image of cells below --labels; {id} is the id of the field.")
    ] = "{id}_cells.tif",
    nucleus_labels: Annotated[
        str | None, typer.Option(help="Path of the label image of nuclei. Default: nuclei are unknown.")
    ] = None,
    pixel_um: Annotated[
        float | None,
        typer.Option(help="Pixel size of the fields in micrometers. Default: as the dataset or the files state it."),
    ] = None,
    channels: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=PATTERN or NAME=CHANNEL of each channel, as for `cytoloc import folder`. Not needed for"
            " datasets, and for files named as by Kaggle or the Human Protein Atlas."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Edge length of the images of cells, in pixels.", min=32, max=2048)] = 256,
    window_um: Annotated[
        float | None,
        typer.Option(help="Edge length of the square around a cell, in micrometers. Default: 51.2."),
    ] = None,
    window_px: Annotated[
        int | None, typer.Option(help="Edge length of the square around a cell, in pixels of the field.")
    ] = None,
    unmasked: Annotated[
        bool, typer.Option("--unmasked", help="Keep pixels outside the cell, instead of making them black.")
    ] = False,
    kept: Annotated[
        Literal["all", "nucleated", "single"] | None,
        typer.Option(
            "--keep",
            help="Cells to keep: all, those with a nucleus (nucleated), or those with exactly one nucleus (single)."
            " Default: nucleated; all with --labels.",
        ),
    ] = None,
    drop_border: Annotated[
        bool, typer.Option("--drop-border", help="Leave out cells that touch the border of the field.")
    ] = False,
    turned: Annotated[bool, typer.Option("--turn", help="Turn each cell so that its long axis is horizontal.")] = False,
    sheet: Annotated[
        Path | None, typer.Option(help="New PNG file: six fields with the outlines of cells and nuclei.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Segment the cells of fields into a dataset with a row and an image per cell.

    The folder of the dataset also has fields.parquet, the table of all cells, and labels/, a label image per field.
    Train, predict, evaluate and embed take the dataset like any other. Rerun a stopped command and it continues.

    Example: `cytoloc segment plate7 --pixel-um 0.08 --out plate7-cells --sheet outlines.png`
    """
    from cytoloc.cells.crops import CropOptions
    from cytoloc.cells.hpa_segmentation import HpaSegmentation
    from cytoloc.cells.methods import Classical, InstanSeg, LabelFiles
    from cytoloc.cells.outlines import outline_sheet
    from cytoloc.cells.segmenting import run_segmentation
    from cytoloc.errors import SettingsError
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
    chosen: Method
    files = {"instanseg": weights, "labels": labels, "hpa": hpa_nuclei or hpa_cells}
    name = _method_name(method, files)
    if name == "labels":
        if labels is None:
            raise SettingsError("--method labels needs --labels.", hint="Give the folder of the label images.")
        chosen = LabelFiles(folder=labels, cells=cell_labels, nuclei=nucleus_labels)
    elif name == "hpa":
        if hpa_nuclei is None or hpa_cells is None:
            raise SettingsError(
                "--method hpa needs --hpa-nuclei and --hpa-cells.", hint="Give the files of the authors."
            )
        chosen = HpaSegmentation(nuclei=hpa_nuclei, cells=hpa_cells)
    else:
        chosen = Classical() if name == "classical" else InstanSeg(weights=weights)
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


def _method_name(method: str | None, files: Mapping[str, Path | None]) -> str:
    """Return the method that the options mean; raise if they contradict each other."""
    from cytoloc.errors import SettingsError

    name = method or next((each for each in ("labels", "hpa") if files[each] is not None), "instanseg")
    options = {"instanseg": "--weights", "labels": "--labels", "hpa": "--hpa-nuclei or --hpa-cells"}
    for other, file in files.items():
        if file is not None and other != name:
            raise SettingsError(f"{options[other]} is given, but --method is {name}.", hint="Remove one of them.")
    return name


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
    predictions: Annotated[
        Path, typer.Argument(help="Predictions of cells, from `cytoloc predict`.", metavar="PREDICTIONS")
    ],
    out: Annotated[Path, typer.Option(help="New predictions file with a row per group (.parquet).")],
    by: Annotated[
        Literal["field", "well", "antibody", "gene"], typer.Option(help="What cells are aggregated to.")
    ] = "field",
    cells: Annotated[
        Path | None, typer.Option(help="Dataset of the cells. Needed for wells, antibodies and genes.")
    ] = None,
    way: Annotated[
        Literal["mean", "max", "top"],
        typer.Option(help="How probabilities of cells become one: their mean, their maximum, or the mean of --top."),
    ] = "mean",
    top: Annotated[
        float, typer.Option(help="With --way top: share of the cells with the highest probability.", min=0, max=1)
    ] = 0.25,
    decision: Annotated[
        Path | None, typer.Option(help="Decision that says which cells have a location, from `cytoloc decide fit`.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Probability from which a cell has a location. Default: --decision, or the thresholds of the model;"
            " 0.5 without both.",
            min=0,
            max=1,
        ),
    ] = None,
    least_cells: Annotated[int, typer.Option(help="Groups with fewer cells are left out.", min=1)] = 1,
    table: Annotated[
        Path | None,
        typer.Option(help="New CSV file: a row per group and location, with the share of cells and its interval."),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="New CSV file: a row per group, with numbers of cells and heterogeneity.")
    ] = None,
    h5ad: Annotated[
        Path | None, typer.Option(help="New AnnData file with a row per cell, for scanpy and squidpy.")
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(help="New CSV file of all cells as a submission to the 2021 Kaggle competition. Needs --cells."),
    ] = None,
) -> None:
    """Aggregate predictions of cells to fields, wells, antibodies or genes.

    Example: `cytoloc aggregate cells.parquet --by gene --cells plate7-cells --table genes.csv --out genes.parquet`
    """
    from cytoloc.cells.aggregation import aggregate_cells, cell_anndata
    from cytoloc.cells.competition import write_cell_submission
    from cytoloc.dataset.store import open_dataset
    from cytoloc.decide.decision import read_decision
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_file
    from cytoloc.prediction_files import check_predictions_path, read_predictions, write_predictions

    if submission is not None and cells is None:
        raise SettingsError("--submission needs --cells, which has the masks.", hint="Give the dataset of cells.")
    check_predictions_path(out)
    check_outputs(*[each for each in (out, table, groups, h5ad, submission) if each])
    if h5ad is not None and h5ad.suffix != ".h5ad":
        raise SettingsError(
            f"{h5ad} is not a valid name for an AnnData file.", hint="Choose a name that ends in .h5ad."
        )
    given = read_predictions(predictions)
    dataset = None if cells is None else open_dataset(cells)
    decided = given if decision is None else read_decision(decision)(given)
    found = aggregate_cells(
        decided, by=by, way=way, top=top, threshold=threshold, least_cells=least_cells, cells=dataset
    )
    write_predictions(found.predictions, out)
    typer.echo(f"{out}: {counted(len(given), 'cell')} aggregated to {counted(len(found.predictions), by)} by {way}.")
    without = found.predictions.provenance["aggregated"]["cells_without_group"]
    if without:
        note(f"{counted(without, 'cell')} without a known {by} left out.")
    if found.left_out:
        note(f"{counted(len(found.left_out), by)} with fewer than {counted(least_cells, 'cell')} left out.")
    for path, rows in ((table, found.locations), (groups, found.groups)):
        if path is not None:
            with new_file(path) as temporary:
                rows.write_csv(temporary, float_precision=4)
            typer.echo(f"{path}: {counted(rows.height, 'row')}.")
    if h5ad is not None:
        with new_file(h5ad) as temporary:
            cell_anndata(decided, cells=dataset).write_h5ad(temporary)
        typer.echo(f"{h5ad}: {counted(len(given), 'cell')}.")
    if submission is not None and dataset is not None:
        write_cell_submission(given, dataset, submission)
        typer.echo(f"{submission}: masks of {counted(len(given), 'cell')}.")
