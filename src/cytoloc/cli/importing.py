"""The commands ``cytoloc import …``: image files and labels into a dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cytoloc.choices import Square
from cytoloc.cli.console import as_flags, counted, note, progress, terminated_as_interrupted
from cytoloc.cli.members import LabelSetOption

if TYPE_CHECKING:
    from cytoloc.dataset.from_files import FileSource, FolderOptions
    from cytoloc.dataset.importing import ImportOptions
    from cytoloc.dataset.sources.folder import FolderSource


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    importing = typer.Typer(help="Pack images and labels into a dataset.", no_args_is_help=True)
    for command in (kaggle, hpa, folder):
        importing.command()(terminated_as_interrupted()(command))
    app.add_typer(importing, name="import")


SHOWN_UNREADABLE = 20
"""How many of the files that cannot be imported are listed."""

ChannelsOption = Annotated[
    list[str],
    typer.Option(help="NAME=PATTERN of files with a channel each, or NAME=CHANNEL of files with all: number or name."),
]
Out = Annotated[Path, typer.Option(help="The new dataset; with --append the one to add to.")]
LabelsOption = Annotated[
    Path | None, typer.Option(help="CSV Id,Target; without it every field is imported, unlabeled.")
]
Size = Annotated[int, typer.Option(help="Edge of the packed images, in pixels.", min=32, max=8192)]
Limit = Annotated[int | None, typer.Option(help="Only the first so many fields.", min=1)]
SquareOption = Annotated[Square, typer.Option(help="What to do with images that are not square.")]
Enlarge = Annotated[bool, typer.Option("--enlarge", help="Enlarge images that are smaller than --size.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first field that cannot be read.")]
Depth = Literal["field", "import"]
DepthOption = Annotated[
    Depth,
    typer.Option(help="Black and white of 16-bit and float images: of each field, or of all fields of the import."),
]
Floor = Annotated[
    float | None, typer.Option(help="Lowest white; 10000 for 16 bits if not given. A 12-bit camera needs less.", min=0)
]
Append = Annotated[bool, typer.Option("--append", help="Add to the dataset --out.")]
DiscardUnfinished = Annotated[
    bool, typer.Option("--discard-unfinished", help="Discard an unfinished import with other settings or other files.")
]
SkipKnown = Annotated[bool, typer.Option("--skip-known", help="With --append, skip ids that the dataset has already.")]


def kaggle(
    folder: Annotated[Path, typer.Argument(help="Holds `{Id}_{red,green,blue,yellow}.png` or `.tif`.", metavar="DIR")],
    out: Out,
    labels: LabelsOption = None,
    label_set: LabelSetOption = None,
    size: Size = 512,
    limit: Limit = None,
    square: SquareOption = "refuse",
    enlarge: Enlarge = False,
    depth: DepthOption = "field",
    floor: Floor = None,
    strict: Strict = False,
    append: Append = False,
    skip_known: SkipKnown = False,
    discard_unfinished: DiscardUnfinished = False,
) -> None:
    """Pack the competition's files: four gray images a field, PNG or TIFF, 8 or 16 bits.

    Fields that cannot be read are listed in quarantine.csv and the import continues. Imports are resumable: rerun the
    command and it continues from the last complete segment.

    Example: `cytoloc import kaggle train/ --labels train.csv --size 256 --out train.dataset`
    """
    from cytoloc.dataset.from_files import kaggle_source
    from cytoloc.dataset.importing import ImportOptions

    options = ImportOptions(
        square=square,
        enlarge=enlarge,
        depth=depth,
        floor=floor,
        limit=limit,
        strict=strict,
        append=append,
        skip_known=skip_known,
        discard_unfinished=discard_unfinished,
    )
    source = kaggle_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    _import(source, out, size=size, options=options)


def hpa(
    folder: Annotated[
        Path, typer.Argument(help="Holds `{antibody}_{plate}_{well}_{field}_{color}.jpg`.", metavar="DIR")
    ],
    out: Out,
    labels: LabelsOption = None,
    label_set: LabelSetOption = None,
    size: Size = 512,
    limit: Limit = None,
    square: SquareOption = "refuse",
    enlarge: Enlarge = False,
    strict: Strict = False,
    append: Append = False,
    skip_known: SkipKnown = False,
    discard_unfinished: DiscardUnfinished = False,
) -> None:
    """Pack the Human Protein Atlas's JPEG files: four renderings a field, each stain in its color.

    Example: `cytoloc import hpa v18/ --labels v18.csv --out external.dataset`
    """
    from cytoloc.dataset.from_files import hpa_source
    from cytoloc.dataset.importing import ImportOptions

    options = ImportOptions(
        square=square,
        enlarge=enlarge,
        limit=limit,
        strict=strict,
        append=append,
        skip_known=skip_known,
        discard_unfinished=discard_unfinished,
    )
    source = hpa_source(folder, out=out, labels=labels, label_set=label_set, size=size, options=options)
    _import(source, out, size=size, options=options)


def folder(
    directory: Annotated[Path, typer.Argument(help="Holds the files, also in folders.", metavar="DIR")],
    channels: ChannelsOption,
    out: Annotated[Path | None, typer.Option(help="The new dataset; with --append the one to add to.")] = None,
    files: Annotated[
        str | None, typer.Option(help="Pattern of files that hold all channels; by default all images.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV Id,Target; other fields stay unlabeled.")] = None,
    label_set: Annotated[
        str | None,
        typer.Option(
            "--label-set",
            help="The locations of --labels: hpa28, hpa19, subcell31, hpa, a .csv or .toml file, or from-labels to make"
            " a label set of the names in --labels.",
        ),
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="CSV id and any of antibody,plate,well,field,gene,cell_line.")
    ] = None,
    size: Size = 512,
    limit: Annotated[int | None, typer.Option(help="Only the first so many files, or sets of files.", min=1)] = None,
    z: Annotated[str, typer.Option(help="max, or the number of a z plane, counted from 0.")] = "max",
    time: Annotated[int | None, typer.Option(help="The time point, counted from 0.", min=0)] = None,
    pages: Annotated[
        Literal["channel", "z"] | None, typer.Option(help="The meaning of the pages of a TIFF that does not state it.")
    ] = None,
    pixel_um: Annotated[float | None, typer.Option(help="Edge of a pixel in µm, whatever the files say.")] = None,
    target_um: Annotated[
        float | None,
        typer.Option(help="Scale images to this pixel size in µm; the Human Protein Atlas has 0.08 x 2048 / SIZE."),
    ] = None,
    square: SquareOption = "refuse",
    enlarge: Enlarge = False,
    depth: DepthOption = "field",
    floor: Floor = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at all files, show which channel becomes what, and stop.")
    ] = False,
    strict: Strict = False,
    append: Append = False,
    skip_known: SkipKnown = False,
    discard_unfinished: DiscardUnfinished = False,
) -> None:
    """Pack any microscope files: TIFF, OME-TIFF, PNG, JPEG, and CZI, LIF, ND2, OME-Zarr with the extra `formats`.

    NAME is microtubules, protein, nucleus or er, or a name of your own; the protein is required. In a PATTERN `*`
    stands for the field's id, and {plate}, {well}, {field}, {antibody}, {gene}, {cell_line} for these values. Each
    scene of a file becomes a field.

    Example: `cytoloc import folder plate7/ --channels 'nucleus={well}_{field}_c1.tif,protein={well}_{field}_c2.tif'
    --size 512 --out plate7.dataset`

    Example: `cytoloc import folder scans/ --channels nucleus=DAPI,protein=GFP,microtubules=2,er=3 --out scans.dataset`
    """
    from cytoloc.dataset.from_files import FROM_LABELS, FolderOptions, folder_source

    if out is None and not dry_run:
        raise typer.BadParameter("is missing; only --dry-run goes without it.", param_hint="'--out'")
    if z != "max" and not z.isdecimal():
        raise typer.BadParameter(f"{z!r} is neither max nor a number.", param_hint="'--z'")
    options = FolderOptions(
        files=files,
        metadata=metadata,
        z="max" if z == "max" else int(z),
        time=time,
        pages=pages,
        pixel_um=pixel_um,
        target_um=target_um,
        square=square,
        enlarge=enlarge,
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
    _preview(source, options, every=dry_run)
    if out is not None and not dry_run:
        _import(source, out, size=size, options=options)


def _preview(source: FolderSource, options: FolderOptions, *, every: bool) -> None:
    """Print which channel becomes what, and which files cannot be imported; raise if the import is in vain."""
    from cytoloc.channels import CHANNELS, near_channels
    from cytoloc.dataset.from_files import preview_import

    with progress("looking at") as advance:
        found = preview_import(source, every=every, options=replace(options, progress=advance))
    typer.echo(f"{counted(found.items, 'item')} in {source.folder}.", err=True)
    if found.unmatched:
        typer.echo(f"  {counted(found.unmatched, 'other image')} in it not asked for.", err=True)
    for lines, items in found.mappings:
        which = f"{len(items)} of them, such as {items[0]}" if every else f"{items[0]}, the first to be read"
        typer.echo(f"Channels as in {which}:", err=True)
        for name, what in lines:
            hint = "" if name in CHANNELS else near_channels(name, CHANNELS)
            typer.echo(f"  {name:<13} {what}{f' (a name of your own.{hint})' if hint else ''}", err=True)
    if every or not found.mappings:
        for bad, _ in found.unreadable[:SHOWN_UNREADABLE]:
            note(f"{bad.id} cannot be taken: {bad.reason.removeprefix(f'{bad.id}: ')}")
        if len(found.unreadable) > SHOWN_UNREADABLE:
            note(f"… and {len(found.unreadable) - SHOWN_UNREADABLE} more.")
    errors = [error for _, error in found.unreadable]
    if (options.strict and not found.mappings) or (every and errors and (options.strict or len(errors) == found.items)):
        raise errors[0]


def _import(source: FileSource, out: Path, *, size: int, options: ImportOptions) -> None:
    """Import with a progress bar; print what came in, what did not, and how to resume if it is stopped."""
    from cytoloc.dataset.from_files import run_import
    from cytoloc.dataset.quarantine import QUARANTINE

    try:
        with progress("importing") as advance:
            imported = run_import(source, out, size=size, options=replace(options, progress=advance, processes=True))
    except KeyboardInterrupt:
        typer.echo(f"{out}: the import was stopped. Rerun the same command to continue.", err=True)
        raise
    known = f", {imported.known} were there already" if imported.known else ""
    added = " added" if options.append else ""
    typer.echo(f"{out}: {counted(imported.added, 'field')} of {size} px{added}{known}.")
    if imported.rejected:
        note(f"{imported.rejected} could not be imported; {out / QUARANTINE} says why.")
        for name, reason in imported.examples:
            typer.echo(as_flags(f"  {name}: {reason}"), err=True)
        if imported.rejected > len(imported.examples):
            typer.echo(f"  … and {imported.rejected - len(imported.examples)} more.", err=True)
    for each in imported.notes:
        note(each)
