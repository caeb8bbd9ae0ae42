"""The commands ``cytoloc import …``: images and labels into a dataset."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from cytoloc.choices import Square
from cytoloc.cli.console import counted, progress, terminated_as_interrupted

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from cytoloc.dataset.importing import FieldSource, Imported, ImportOptions
    from cytoloc.dataset.sources.folder import FolderSource
    from cytoloc.dataset.sources.hpa import HpaSource
    from cytoloc.dataset.sources.kaggle import KaggleSource
    from cytoloc.errors import ImageError
    from cytoloc.labels import LabelSet


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    importing = typer.Typer(help="Pack images and labels into a dataset.", no_args_is_help=True)
    for command in (kaggle, hpa, folder):
        importing.command()(terminated_as_interrupted()(command))
    app.add_typer(importing, name="import")


def _finite(value: float | None) -> float | None:
    """Return an option's number; infinity is no number of pixels, grays or micrometers."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


WORTH_PROCESSES: Final = 200
"""From so many items on a process per core is faster than a thread: it takes half a second to start."""

TRIES = 20
"""How many items that cannot be read are passed over in search of one that shows the channels."""

Out = Annotated[Path, typer.Option(help="The new dataset; with --append the one to add to.")]
Labels = Annotated[Path | None, typer.Option(help="CSV Id,Target; without it every field is imported, unlabeled.")]
LabelSetOption = Annotated[
    str | None,
    typer.Option(
        "--label-set",
        help="The locations of the labels: hpa28 (default), hpa19, subcell31, hpa, or a .csv or .toml file.",
    ),
]
FROM_LABELS: Final = "from-labels"
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
    float | None,
    typer.Option(
        help="Lowest white; 10000 for 16 bits if not given. A 12-bit camera wants less.", min=0, callback=_finite
    ),
]
Append = Annotated[bool, typer.Option("--append", help="Add to the dataset --out.")]
DiscardUnfinished = Annotated[
    bool,
    typer.Option("--discard-unfinished", help="Discard an unfinished import with other settings or other files."),
]
SkipKnown = Annotated[bool, typer.Option("--skip-known", help="With --append, pass over ids that it has already.")]


def kaggle(
    folder: Annotated[Path, typer.Argument(help="Holds `{Id}_{red,green,blue,yellow}.png` or `.tif`.", metavar="DIR")],
    out: Out,
    labels: Labels = None,
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

    Fields that cannot be read are listed in quarantine.csv and the import goes on. Imports are resumable: rerun the
    command and it continues from the last complete segment.

    Example: `cytoloc import kaggle train/ --labels train.csv --size 256 --out train.dataset`
    """
    from cytoloc.dataset.importing import ImportOptions
    from cytoloc.dataset.sources.kaggle import KaggleSource
    from cytoloc.images.depth import DepthRule
    from cytoloc.images.scale import Scaling

    source = KaggleSource(
        folder,
        labels=labels,
        label_set=_label_set(label_set, out, append=append),
        scaling=Scaling(size=size, square=square, enlarge=enlarge),
        depth=DepthRule(floor=floor),
        limit=limit,
    )
    _measure(source, depth)
    _import(
        source,
        out,
        size=size,
        options=ImportOptions(
            append=append, skip_known=skip_known, discard_unfinished=discard_unfinished, strict=strict
        ),
    )
    _say_what_is_not_there(source)


def hpa(
    folder: Annotated[
        Path, typer.Argument(help="Holds `{antibody}_{plate}_{well}_{field}_{color}.jpg`.", metavar="DIR")
    ],
    out: Out,
    labels: Labels = None,
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
    from cytoloc.dataset.importing import ImportOptions
    from cytoloc.dataset.sources.hpa import HpaSource
    from cytoloc.images.scale import Scaling

    scaling = Scaling(size=size, square=square, enlarge=enlarge)
    source = HpaSource(
        folder,
        labels=labels,
        label_set=_label_set(label_set, out, append=append),
        scaling=scaling,
        limit=limit,
    )
    _import(
        source,
        out,
        size=size,
        options=ImportOptions(
            append=append, skip_known=skip_known, discard_unfinished=discard_unfinished, strict=strict
        ),
    )
    _say_what_is_not_there(source)


def folder(
    directory: Annotated[Path, typer.Argument(help="Holds the files, also in folders.", metavar="DIR")],
    channels: Annotated[
        list[str],
        typer.Option(
            help="NAME=PATTERN of files with a channel each, or NAME=CHANNEL of files with all: number or name."
        ),
    ],
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
        Literal["channel", "z"] | None, typer.Option(help="What pages of a TIFF are that does not say it.")
    ] = None,
    pixel_um: Annotated[float | None, typer.Option(help="Edge of a pixel in µm, whatever the files say.")] = None,
    target_um: Annotated[
        float | None,
        typer.Option(help="Bring pixels to this edge in µm; 0.08 x 2048 / SIZE is that of the Human Protein Atlas."),
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
    """Pack anyone's microscope files: TIFF, OME-TIFF, PNG, JPEG, and CZI, LIF, ND2, OME-Zarr with the extra `formats`.

    NAME is microtubules, protein, nucleus or er, or a name of your own; the protein is required. In a PATTERN `*`
    stands for the field's id, and {plate}, {well}, {field}, {antibody}, {gene}, {cell_line} for what they say. Scenes
    of a file become fields of their own.

    Example: `cytoloc import folder plate7/ --channels 'nucleus={well}_{field}_c1.tif,protein={well}_{field}_c2.tif'
    --size 512 --out plate7.dataset`

    Example: `cytoloc import folder scans/ --channels nucleus=DAPI,protein=GFP,microtubules=2,er=3 --out scans.dataset`
    """
    from cytoloc.dataset.importing import ImportOptions
    from cytoloc.dataset.sources.channels import parse_channels
    from cytoloc.dataset.sources.field_files import FieldReader
    from cytoloc.dataset.sources.folder import FolderSource
    from cytoloc.dataset.sources.planes import PlaneChoice
    from cytoloc.images.depth import DepthRule
    from cytoloc.images.scale import Scaling

    if out is None and not dry_run:
        raise typer.BadParameter("is missing; only --dry-run goes without it.", param_hint="'--out'")
    if z != "max" and not z.isdecimal():
        raise typer.BadParameter(f"{z!r} is neither max nor a number.", param_hint="'--z'")
    for name, um in (("--pixel-um", pixel_um), ("--target-um", target_um)):
        if um is not None and not (math.isfinite(um) and um > 0):
            raise typer.BadParameter("must be a number more than 0.", param_hint=f"'{name}'")
    reader = FieldReader(
        folder=directory,
        channels=parse_channels(channels),
        scaling=Scaling(size=size, square=square, enlarge=enlarge, target_um=target_um),
        planes=PlaneChoice(depth=None if z == "max" else int(z), time=time, pages=pages),
        depth=DepthRule(floor=floor),
        pixel_um=pixel_um,
    )
    source = FolderSource(
        reader,
        label_set=_label_set(label_set, out, append=append, labels=labels),
        files=files,
        labels=labels,
        metadata=metadata,
        limit=limit,
    )
    unfit = _show_mapping(source, every=dry_run, must=strict or dry_run)
    if dry_run and unfit and (strict or len(unfit) == len(source.items)):
        raise unfit[0]
    if dry_run or out is None:
        return
    _measure(source, depth)
    options = ImportOptions(append=append, skip_known=skip_known, discard_unfinished=discard_unfinished, strict=strict)
    imported = _import(source, out, size=size, options=options)
    _warn_of_scale(imported, size)
    _warn_of_depth(imported)
    _warn_of_unmatched(source, imported)


def _label_set(word: str | None, out: Path | None, *, append: bool, labels: Path | None = None) -> LabelSet:
    """Return the label set of an import.

    Args:
        word: The one that is named. By default it is that of the dataset to add to, or hpa28.
        out: The dataset.
        append: Whether the import adds to it.
        labels: The labels file of a source that has no usual label set.
    """
    from cytoloc.dataset.manifest import read_manifest
    from cytoloc.dataset.sources.labeling import label_set_from
    from cytoloc.labels import find_label_set

    if word is None and append and out is not None:
        return read_manifest(out).label_set
    if word is None and labels is not None:
        raise typer.BadParameter(
            "--labels needs it: say which locations the labels name, for example hpa28, or from-labels.",
            param_hint="'--label-set'",
        )
    if word != FROM_LABELS:
        return find_label_set(word or "hpa28")
    if labels is None:
        raise typer.BadParameter("from-labels needs --labels.", param_hint="'--label-set'")
    made = label_set_from(labels)
    typer.echo(f"Label set {made.name}, made from {labels}:", err=True)
    for location in made:
        typer.echo(f"  {location.key:<30} {location.name}", err=True)
    return made


def _show_mapping(source: FolderSource, *, every: bool, must: bool) -> list[ImageError]:
    """Say which channel becomes what in the first item that can be read; if it must, raise where none can.

    With ``every`` look at all items, say what is taken from those that differ, and which cannot be read; return what is
    wrong with those.
    """
    from cytoloc.channels import CHANNELS, near_channels
    from cytoloc.dataset.quarantine import refuse_unprintable, rejected
    from cytoloc.errors import ImageError

    reasons: list[tuple[str, ImageError]] = []
    seen: dict[tuple[tuple[str, str], ...], list[str]] = {}
    with progress("looking at") as advance:
        for done, item in enumerate(source.items, start=1):
            try:
                refuse_unprintable(item)
                lines = source.describe(item)
                seen.setdefault(tuple((role, what.partition(" in ")[0]) for role, what in lines), []).append(item)
                if every:
                    source.check(item)
            except ImageError as error:
                reasons.append((item, error))
            advance(done, len(source.items))
            if not every and (seen or len(reasons) == TRIES):
                break
    typer.echo(f"{counted(len(source.items), 'item')} in {source.folder}.", err=True)
    if source.unmatched:
        typer.echo(f"  {counted(source.unmatched, 'other image')} in it not asked for.", err=True)
    for items in sorted(seen.values(), key=len, reverse=True):
        which = f"{len(items)} of them, such as {items[0]}" if every else f"{items[0]}, the first to be read"
        typer.echo(f"Channels as in {which}:", err=True)
        for name, what in source.describe(items[0]):
            hint = "" if name in CHANNELS else near_channels(name, CHANNELS)
            typer.echo(f"  {name:<13} {what}{f' (a name of your own.{hint})' if hint else ''}", err=True)
    if must and not seen:
        raise reasons[0][1]
    if every or not seen:
        for bad in (rejected(item, error) for item, error in reasons[:TRIES]):
            typer.secho(f"{bad.id} cannot be taken: {bad.reason.removeprefix(f'{bad.id}: ')}", fg="yellow", err=True)
        if len(reasons) > TRIES:
            typer.secho(f"… and {len(reasons) - TRIES} more.", fg="yellow", err=True)
    return [error for _, error in reasons]


def _measure(source: KaggleSource | FolderSource, depth: Depth) -> None:
    """Find joint bounds if they are asked for."""
    if depth == "import":
        with progress("measuring black and white") as advance:
            source.measure_jointly(advance)


def _warn_of_scale(imported: Imported, size: int) -> None:
    """Compare the size of pixels with that of the images that networks learn from."""
    from cytoloc.images.scale import HPA_FIELD_UM, far_off

    hpa = HPA_FIELD_UM / size
    edges = imported.column("packed_um").tail(imported.added)
    unknown = edges.null_count()
    if unknown:
        typer.secho(
            f"The pixel size of {counted(unknown, 'field')} is not known; the Human Protein Atlas has {hpa:.3f} µm at"
            f" {size} px. Cells at another scale are misjudged: give --pixel-um.",
            fg="yellow",
            err=True,
        )
    off = [edge for edge in edges.drop_nulls() if far_off(edge, size)]
    if off:
        span = " to ".join(dict.fromkeys(f"{edge:.3f}" for edge in (min(off), max(off))))
        typer.secho(
            f"Pixels of {counted(len(off), 'field')} are {span} µm as packed; the Human"
            f" Protein Atlas has {hpa:.3f} µm at {size} px. --target-um {hpa:.3g} would bring them to its scale.",
            fg="yellow",
            err=True,
        )


def _warn_of_depth(imported: Imported) -> None:
    """Tell if the floor of white, not the images, decided how bright most fields are."""
    from cytoloc.images.depth import FLOOR_16_BIT

    whites = imported.column("white").tail(imported.added)
    floored = int(whites.list.contains(FLOOR_16_BIT).sum())
    if floored * 2 > len(whites):
        typer.secho(
            f"A channel of {floored} of {len(whites)} fields stays below the white of 16 bits, {FLOOR_16_BIT:.0f},"
            " and is dark. Of a 12-bit camera? Then say --floor 0, or what counts as bright there.",
            fg="yellow",
            err=True,
        )


def _warn_of_unmatched(source: FolderSource, imported: Imported) -> None:
    """Warn of rows of labels and metadata that belong to no field."""
    ids = imported.column("id")
    for what, names, known in (
        ("--labels", source.labels.ids, set(ids)),
        ("--metadata", source.metadata.ids, {*ids, *source.items}),
    ):
        lacking = sorted(set(names) - known)
        if lacking:
            typer.secho(
                f"{counted(len(lacking), 'id')} in {what} of no field imported: {', '.join(lacking[:3])}. Ids there"
                f" are such as {', '.join(ids[:2])}.",
                fg="yellow",
                err=True,
            )


def _say_what_is_not_there(source: KaggleSource | HpaSource) -> None:
    """Tell fields that are listed and have no file at all from those whose files are bad."""
    without = sum(name not in source.found for name in source.items)
    if without:
        typer.secho(
            f"{without} of {counted(len(source.items), 'listed field')} without a file in {source.folder}.",
            fg="yellow",
            err=True,
        )
    left_out = len(source.found) - (len(source.items) - without)
    if left_out > 0:
        typer.echo(f"{counted(left_out, 'more field')} in {source.folder} not asked for.", err=True)
    if source.found.unmatched:
        typer.secho(
            f"{counted(source.found.unmatched, 'other image')} in {source.folder} not named like a channel.",
            fg="yellow",
            err=True,
        )


def _pool(items: int) -> AbstractContextManager[Executor | None]:
    """Return where so many items are loaded: in processes, or in threads of this one."""
    from cytoloc.errors import WorkerError
    from cytoloc.parallel import processes

    if items < WORTH_PROCESSES:
        return nullcontext()
    try:
        return processes()
    except WorkerError as error:
        typer.secho(f"{error.message} The import works in threads, with the same result.", fg="yellow", err=True)
        return nullcontext()


def _import(source: FieldSource, out: Path, *, size: int, options: ImportOptions) -> Imported:
    """Import with a progress bar, and say what came in, what did not, and how to resume if it is stopped."""
    from cytoloc.dataset.importing import import_fields
    from cytoloc.dataset.quarantine import QUARANTINE

    imported = None
    try:
        with progress("importing") as advance, _pool(len(source.items)) as pool:
            imported = import_fields(source, out, size=size, options=options, pool=pool, advance=advance)
    except KeyboardInterrupt:
        # While the workers leave, nothing is left that could be stopped.
        if imported is None:
            typer.echo(f"{out}: the import was stopped. Rerun the same command to continue.", err=True)
            raise
    known = f", {imported.known} were there already" if imported.known else ""
    added = " added" if options.append else ""
    typer.echo(f"{out}: {counted(imported.added, 'field')} of {size} px{added}{known}.")
    if imported.rejected:
        typer.secho(f"{imported.rejected} could not be imported; {out / QUARANTINE} says why.", fg="yellow", err=True)
        for name, reason in imported.examples:
            typer.echo(f"  {name}: {reason}", err=True)
        if imported.rejected > len(imported.examples):
            typer.echo(f"  … and {imported.rejected - len(imported.examples)} more.", err=True)
    return imported
