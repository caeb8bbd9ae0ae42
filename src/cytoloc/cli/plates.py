"""The command ``cytoloc import plate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import counted, terminated_as_interrupted
from cytoloc.cli.importing import (
    Append,
    DepthOption,
    DiscardUnfinished,
    Enlarge,
    Floor,
    Limit,
    MetadataOption,
    NewLabelSetOption,
    OutOrPreview,
    PagesOption,
    ResampleOption,
    Size,
    SkipKnown,
    SomeLabelsOption,
    SquareOption,
    TargetUm,
    parse_plane,
    preview_fields,
    run,
)
from cytoloc.cli.members import Strict


def register(importing: typer.Typer) -> None:
    """Add the command to the group ``import``."""
    importing.command()(terminated_as_interrupted()(plate))


LayoutName = Literal["auto", "imagexpress", "operetta", "harmony", "cellvoyager", "incell", "scanr", "ome-zarr"]


def plate(
    directory: Annotated[
        Path, typer.Argument(help="Folder of one or more plates. Its subfolders are searched too.", metavar="DIR")
    ],
    channels: Annotated[
        list[str],
        typer.Option(
            help="NAME=CHANNEL: the name, number or wavelength of the channel on the plate. Can be repeated, or"
            " separated by commas."
        ),
    ],
    out: OutOrPreview = None,
    layout: Annotated[
        LayoutName, typer.Option(help="Layout of the files. auto finds it by index files and file names.")
    ] = "auto",
    labels: SomeLabelsOption = None,
    label_set: NewLabelSetOption = None,
    metadata: MetadataOption = None,
    size: Size = 512,
    limit: Limit = None,
    z: Annotated[
        str, typer.Option(help="max for a maximum projection, or the number of a z plane as the instrument counts.")
    ] = "max",
    time: Annotated[
        int | None,
        typer.Option(help="Time point to import, as the instrument counts. Default: all, each as a field.", min=0),
    ] = None,
    pages: PagesOption = None,
    pixel_um: Annotated[
        float | None, typer.Option(help="Pixel size in µm. Default: the pixel size in the index or in each file.")
    ] = None,
    target_um: TargetUm = None,
    square: SquareOption = "refuse",
    enlarge: Enlarge = False,
    resample: ResampleOption = "area",
    depth: DepthOption = "field",
    floor: Floor = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check all files, print what was found, and exit."),
    ] = False,
    strict: Strict = False,
    append: Append = False,
    skip_known: SkipKnown = False,
    discard_unfinished: DiscardUnfinished = False,
) -> None:
    """Import plates of ImageXpress, Operetta and Opera Phenix, CellVoyager, InCell, ScanR, or in OME-Zarr.

    Wells, fields, channels, z planes and time points come from the instrument's index (.HTD, Index.idx.xml, Index.xml,
    MeasurementData.mlf, .xdce, experiment_descriptor.xml), otherwise from file names. Each field and time point becomes
    a field with the columns plate, well and field. Files that an index lists and that are missing are listed in
    quarantine.csv.

    Example: `cytoloc import plate plate7/ --channels nucleus=DAPI,protein=FITC --size 512 --out plate7.dataset`

    Example: `cytoloc import plate plate7/ --channels nucleus=1,protein=2 --dry-run`
    """
    from cytoloc.dataset.from_plates import PlateOptions, plate_source
    from cytoloc.dataset.plates.fields import describe_plates

    plane = parse_plane(z, out=out, dry_run=dry_run)
    options = PlateOptions(
        layout=layout,
        metadata=metadata,
        z=plane,
        time=time,
        pages=pages,
        pixel_um=pixel_um,
        target_um=target_um,
        square=square,
        enlarge=enlarge,
        resample=resample,
        depth=depth,
        floor=floor,
        limit=limit,
        strict=strict,
        append=append,
        skip_known=skip_known,
        discard_unfinished=discard_unfinished,
    )
    found, source = plate_source(
        directory, out=out, channels=channels, labels=labels, label_set=label_set, size=size, options=options
    )
    typer.echo(f"{counted(len(found.plates), 'plate')} in {directory}:", err=True)
    for line in describe_plates(found):
        typer.echo(f"  {line}", err=True)
    preview_fields(source, options, every=dry_run)
    if out is not None and not dry_run:
        run(source, out, size=size, options=options)
