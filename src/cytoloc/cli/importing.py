"""The commands ``cytoloc import kaggle``, ``import hpa`` and ``import folder``, and what ``import plate`` shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cytoloc.choices import Resample, Square
from cytoloc.cli.console import as_flags, counted, note, progress, terminated_as_interrupted
from cytoloc.cli.members import LabelSetOption, Strict

if TYPE_CHECKING:
    from cytoloc.dataset.from_files import FileSource
    from cytoloc.dataset.importing import ImportOptions
    from cytoloc.dataset.sources.folder import FolderSource


Directory = Annotated[
    Path, typer.Argument(help="Folder of image files. Its subfolders are searched too.", metavar="DIR")
]
FilesPattern = Annotated[
    str | None,
    typer.Option(help="Pattern of the files, if each file contains all channels. Default: all images."),
]
FilesTable = Annotated[
    Path | None,
    typer.Option(
        help="CSV file of the files: a row per field with columns FileName_CHANNEL and PathName_CHANNEL (as for"
        " CellProfiler), or a row per channel with columns id,channel,path; and columns of metadata."
    ),
]
FileLimit = Annotated[
    int | None,
    typer.Option(help="Maximum number of files (or sets of files); the first ones are imported.", min=1),
]
Plane = Annotated[str, typer.Option(help="max for a maximum projection, or the number of a z plane, from 0.")]
TimePoint = Annotated[
    int | None,
    typer.Option(help="Time point to import, from 0. Required if files have several time points.", min=0),
]
Axes = Annotated[
    str | None,
    typer.Option(
        help="What the axes of the files are, instead of what the files say: one letter of T, Z, C, Y, X for each"
        " axis longer than 1. CYX reads channels that were saved as time points, YXC channels that are last."
    ),
]
PixelUm = Annotated[float | None, typer.Option(help="Pixel size in µm. Default: the pixel size that each file states.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check all files, print the channel assignment, and exit."),
]


def register(app: typer.Typer) -> typer.Typer:
    """Add the commands to the app, and return the group ``import``."""
    importing = typer.Typer(
        help="Import image files and labels into a dataset.\n\nExample: `cytoloc import kaggle train/ --labels"
        " train.csv --out train.dataset`",
        no_args_is_help=True,
    )
    for command in (kaggle, hpa, folder):
        importing.command()(terminated_as_interrupted()(command))
    app.add_typer(importing, name="import")
    return importing


SHOWN_UNREADABLE = 20
"""Maximum number of files that cannot be imported and are printed."""

ChannelsOption = Annotated[
    list[str],
    typer.Option(
        help="NAME=PATTERN if each channel has its own files, or NAME=CHANNEL (a number or name) if each file contains"
        " all channels. name:488 is always a name, number:1 always a number. Can be repeated, or separated by commas."
    ),
]
Out = Annotated[Path, typer.Option(help="New dataset, or with --append the dataset to add to.")]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        help="Labels: a CSV file with columns Id,Target; only its fields are imported. Default: all fields, without"
        " labels."
    ),
]
OutOrPreview = Annotated[Path | None, typer.Option(help="New dataset, or with --append the dataset to add to.")]
SomeLabelsOption = Annotated[
    Path | None,
    typer.Option(
        help="Labels: a CSV file with columns Id,Target. Fields that are not in it are imported without labels."
    ),
]
NewLabelSetOption = Annotated[
    str | None,
    typer.Option(
        "--label-set",
        help="Label set of --labels: hpa28, hpa19, subcell31, hpa, a .csv or .toml file, or from-labels to make a"
        " label set of the names in --labels.",
        metavar="NAME|FILE",
    ),
]
MetadataOption = Annotated[
    Path | None,
    typer.Option(help="CSV file with a column id and any of antibody, plate, well, field, gene, cell_line."),
]
PagesOption = Annotated[
    Literal["channel", "z"] | None,
    typer.Option(help="Axis along the pages of a TIFF file that does not state its axes."),
]
TargetUm = Annotated[
    float | None,
    typer.Option(help="Scale images to this pixel size in µm. The Human Protein Atlas has 0.08 x 2048 / SIZE."),
]
Size = Annotated[int, typer.Option(help="Edge length of the images in the dataset, in pixels.", min=32, max=8192)]
Limit = Annotated[int | None, typer.Option(help="Maximum number of fields; the first ones are imported.", min=1)]
SquareOption = Annotated[
    Square, typer.Option(help="What to do with images that are not square: refuse, crop or pad them.")
]
Enlarge = Annotated[bool, typer.Option("--enlarge", help="Allow images smaller than --size, and enlarge them.")]
ResampleOption = Annotated[
    Resample,
    typer.Option(
        help="How larger images are scaled down: by area means, or by the nearest pixel, as the 512 px files of the"
        " 2018 Kaggle competition were made."
    ),
]
Depth = Literal["field", "import"]
DepthOption = Annotated[
    Depth,
    typer.Option(
        help="How intensities of 16-bit and float images are scaled to 8 bits: with one range per field, or with one"
        " range for all fields of the import."
    ),
]
Floor = Annotated[
    float | None,
    typer.Option(
        help="Smallest distance between the intensities that become black and white. Default: 10000 for 16-bit"
        " images. A 12-bit camera needs 625.",
        min=0,
    ),
]
Append = Annotated[bool, typer.Option("--append", help="Add the fields to the existing dataset --out.")]
DiscardUnfinished = Annotated[
    bool,
    typer.Option("--discard-unfinished", help="Discard an unfinished import that has other settings or other files."),
]
SkipKnown = Annotated[
    bool, typer.Option("--skip-known", help="With --append: skip fields whose ids are in the dataset already.")
]


def parse_plane(z: str, *, out: Path | None, dry_run: bool) -> int | Literal["max"]:
    """Return the z plane of an import; raise if it is wrong, or if there is neither ``--out`` nor ``--dry-run``."""
    if out is None and not dry_run:
        raise typer.BadParameter("is missing. It is optional with --dry-run only.", param_hint="'--out'")
    if z == "max":
        return "max"
    if not z.isdecimal():
        raise typer.BadParameter(f"{z!r} is neither max nor the number of a z plane.", param_hint="'--z'")
    return int(z)


def kaggle(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of image files `{Id}_{red,green,blue,yellow}.png` or `.tif`.", metavar="DIR"),
    ],
    out: Out,
    labels: LabelsOption = None,
    label_set: LabelSetOption = None,
    size: Size = 512,
    limit: Limit = None,
    square: SquareOption = "refuse",
    enlarge: Enlarge = False,
    resample: ResampleOption = "area",
    depth: DepthOption = "field",
    floor: Floor = None,
    strict: Strict = False,
    append: Append = False,
    skip_known: SkipKnown = False,
    discard_unfinished: DiscardUnfinished = False,
) -> None:
    """Import files of the 2018 Kaggle competition: four gray images per field, PNG or TIFF, with 8 or 16 bits.

    Fields that cannot be read are listed in quarantine.csv, and the import continues. Imports are resumable: rerun the
    command, and it continues after the last part of the dataset that is complete.

    Example: `cytoloc import kaggle train/ --labels train.csv --size 256 --out train.dataset`
    """
    from cytoloc.dataset.from_files import kaggle_source
    from cytoloc.dataset.importing import ImportOptions

    options = ImportOptions(
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
    source = kaggle_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    run(source, out, size=size, options=options)


def hpa(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of image files `{antibody}_{plate}_{well}_{field}_{color}.jpg`.", metavar="DIR"),
    ],
    out: Out,
    labels: LabelsOption = None,
    label_set: LabelSetOption = None,
    size: Size = 512,
    limit: Limit = None,
    square: SquareOption = "refuse",
    enlarge: Enlarge = False,
    resample: ResampleOption = "area",
    strict: Strict = False,
    append: Append = False,
    skip_known: SkipKnown = False,
    discard_unfinished: DiscardUnfinished = False,
) -> None:
    """Import JPEG files of the Human Protein Atlas: four files per field, one per channel, in its color.

    Example: `cytoloc import hpa v18/ --labels v18.csv --out external.dataset`
    """
    from cytoloc.dataset.from_files import hpa_source
    from cytoloc.dataset.importing import ImportOptions

    options = ImportOptions(
        square=square,
        enlarge=enlarge,
        resample=resample,
        limit=limit,
        strict=strict,
        append=append,
        skip_known=skip_known,
        discard_unfinished=discard_unfinished,
    )
    source = hpa_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    run(source, out, size=size, options=options)


def folder(
    directory: Directory,
    channels: ChannelsOption,
    out: OutOrPreview = None,
    files: FilesPattern = None,
    table: FilesTable = None,
    labels: SomeLabelsOption = None,
    label_set: NewLabelSetOption = None,
    metadata: MetadataOption = None,
    size: Size = 512,
    limit: FileLimit = None,
    z: Plane = "max",
    time: TimePoint = None,
    pages: PagesOption = None,
    axes: Axes = None,
    pixel_um: PixelUm = None,
    target_um: TargetUm = None,
    square: SquareOption = "refuse",
    enlarge: Enlarge = False,
    resample: ResampleOption = "area",
    depth: DepthOption = "field",
    floor: Floor = None,
    dry_run: DryRun = False,
    strict: Strict = False,
    append: Append = False,
    skip_known: SkipKnown = False,
    discard_unfinished: DiscardUnfinished = False,
) -> None:
    """Import any microscope files: TIFF, OME-Zarr, PNG, JPEG; with the extra `formats` also CZI, LIF, ND2, OIB, OIF.

    NAME is microtubules, protein, nucleus, er, or a name of your own. The protein is required. In a PATTERN, `*`
    stands for the id of the field, {plate}, {well}, {field}, {antibody}, {gene}, {cell_line} for these values, and {_}
    for anything else, such as a GUID. Each scene of a file becomes a field.

    Example: `cytoloc import folder plate7/ --channels 'nucleus={well}_{field}_c1.tif,protein={well}_{field}_c2.tif'
    --size 512 --out plate7.dataset`

    Example: `cytoloc import folder images/ --table files.csv --channels nucleus=DNA,protein=AGP --out screen.dataset`

    Example: `cytoloc import folder scans/ --channels nucleus=DAPI,protein=GFP,microtubules=2,er=3 --out scans.dataset`

    Example: `cytoloc import folder scans/ --channels 'nucleus=name:405,protein=name:488' --axes CYX --dry-run`
    """
    from cytoloc.dataset.arguments import FROM_LABELS
    from cytoloc.dataset.from_files import FolderOptions, folder_source

    plane = parse_plane(z, out=out, dry_run=dry_run)
    options = FolderOptions(
        files=files,
        table=table,
        metadata=metadata,
        z=plane,
        time=time,
        pages=pages,
        axes=axes,
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
    source = folder_source(
        directory, out=out, channels=channels, labels=labels, label_set=label_set, size=size, options=options
    )
    if label_set == FROM_LABELS:
        typer.echo(f"Label set {source.label_set.name}, made from {labels}:", err=True)
        for location in source.label_set:
            typer.echo(f"  {location.key:<30} {location.name}", err=True)
    preview_fields(source, options, every=dry_run)
    if out is not None and not dry_run:
        run(source, out, size=size, options=options)


def preview_fields(source: FolderSource, options: ImportOptions, *, every: bool) -> None:
    """Print the channel assignment and the files that cannot be imported; raise if nothing can be imported."""
    from cytoloc.channels import CHANNELS, near_channels
    from cytoloc.dataset.from_files import preview_import

    with progress("Checking files") as advance:
        found = preview_import(source, every=every, options=replace(options, progress=advance))
    typer.echo(f"{counted(found.items, 'item')} in {source.folder}.", err=True)
    if found.unmatched:
        typer.echo(f"  {counted(found.unmatched, 'other image')} in this folder not matched.", err=True)
    for lines, items in found.mappings:
        which = f"{len(items)} of them, such as {items[0]}" if every else f"{items[0]}, the first item"
        typer.echo(f"Channels as in {which}:", err=True)
        for name, what in lines:
            hint = "" if name in CHANNELS else near_channels(name, CHANNELS)
            typer.echo(f"  {name:<13} {what}{f' (a name of your own.{hint})' if hint else ''}", err=True)
    if every or not found.mappings:
        for bad, _ in found.unreadable[:SHOWN_UNREADABLE]:
            note(f"{bad.id} cannot be imported: {bad.reason.removeprefix(f'{bad.id}: ')}")
        if len(found.unreadable) > SHOWN_UNREADABLE:
            note(f"… and {len(found.unreadable) - SHOWN_UNREADABLE} more.")
    errors = [error for _, error in found.unreadable]
    nothing = found.refused == found.items if every else options.strict and not found.mappings
    if errors and (nothing or (every and options.strict)):
        raise errors[0]


def run(source: FileSource, out: Path, *, size: int, options: ImportOptions) -> None:
    """Import with a progress bar, and print the numbers of imported and rejected fields and the next command."""
    from cytoloc.dataset.from_files import run_import
    from cytoloc.dataset.quarantine import QUARANTINE

    try:
        with progress("Importing") as advance:
            imported = run_import(source, out, size=size, options=replace(options, progress=advance, processes=True))
    except KeyboardInterrupt:
        typer.echo(f"{out}: the import was stopped. Rerun the same command to continue.", err=True)
        raise
    known = f", {imported.known} already in it" if imported.known else ""
    added = " added" if options.append else ""
    typer.echo(f"{out}: {counted(imported.added, 'field')} of {size} px{added}{known}.\nNext: cytoloc info {out}")
    if imported.rejected:
        note(f"{counted(imported.rejected, 'field')} could not be imported; {out / QUARANTINE} gives the reasons.")
        for name, reason in imported.examples:
            typer.echo(as_flags(f"  {name}: {reason}"), err=True)
        if imported.rejected > len(imported.examples):
            typer.echo(f"  … and {imported.rejected - len(imported.examples)} more.", err=True)
    for each in imported.notes:
        note(each)
