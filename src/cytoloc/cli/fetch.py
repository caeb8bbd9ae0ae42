"""The command ``cytoloc fetch hpa``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.cli.console import counted, now_and_then, progress, terminated_as_interrupted
from cytoloc.cli.members import AsJson

if TYPE_CHECKING:
    from cytoloc.hpa.catalog import FieldSelection
    from cytoloc.hpa.fetching import Fetched, FetchPlan
    from cytoloc.hpa.site import FailedFile

MOST_PRINTED = 5
"""Maximum number of names and of failed files that are printed; files list all of them."""


def _positive(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter("must be a finite number above 0.")
    return value


def _printable(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise typer.BadParameter("must be printable ASCII, because it becomes part of an HTTP header.")
    return value


Out = Annotated[
    Path, typer.Option(help="Folder for the images and labels: a new one, or one of an earlier fetch to resume.")
]
BaseUrl = Annotated[
    str | None,
    typer.Option(help="Base URL of the site. Default: release 18 of the Human Protein Atlas.", metavar="URL"),
]
Genes = Annotated[
    Path | None,
    typer.Option(
        help="File of genes: Ensembl ids or gene names, one per line, or a table downloaded from the Human Protein"
        " Atlas. Default: all genes."
    ),
]
Catalog = Annotated[
    Path | None,
    typer.Option(
        help="Local XML file of many genes, plain or gzipped, to read instead of the site's XML page of each gene."
    ),
]
Reliabilities = Annotated[
    str,
    typer.Option(
        help="Reliabilities of the antibodies to fetch, separated by commas: enhanced, supported, approved, uncertain."
    ),
]
CellLines = Annotated[
    list[str] | None,
    typer.Option(help="Fetch only this cell line. Can be repeated. Default: all cell lines."),
]
Colors = Annotated[
    str,
    typer.Option(help="Channels to fetch, separated by commas: red, green, blue, yellow. An import needs all four."),
]
Unlabeled = Annotated[
    bool, typer.Option("--unlabeled", help="Also fetch fields that have no location of the label set.")
]
LabelSetName = Annotated[
    str,
    typer.Option(
        help="Label set of labels.csv: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.",
        metavar="NAME|FILE",
    ),
]
Jobs = Annotated[int, typer.Option(help="Number of files to download at the same time.", min=1, max=16)]
Rate = Annotated[float, typer.Option(help="Maximum number of requests per second.", callback=_positive)]
Timeout = Annotated[
    float,
    typer.Option("--timeout-s", help="Seconds without any data after which a request fails.", callback=_positive),
]
Attempts = Annotated[int, typer.Option(help="Maximum number of requests for one file.", min=1, max=20)]
Contact = Annotated[
    str,
    typer.Option(
        help="Your e-mail address, sent to the site in the User-Agent header. Default: none.", callback=_printable
    ),
]
LicenseName = Annotated[
    str | None,
    typer.Option(
        "--license", help="License to record in manifest.csv. Default: the known license of releases 15 and 18."
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Maximum number of fields; the first ones are fetched. Default: all.", min=1)
]
PlanOnly = Annotated[bool, typer.Option("--plan", help="Fetch only the catalog, and print what would be fetched.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare the checksums of images that were fetched earlier.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first file that cannot be fetched.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    fetching = typer.Typer(
        help="Download images and their labels.\n\nExample: `cytoloc fetch hpa --genes genes.txt --plan --out v18`",
        no_args_is_help=True,
    )
    fetching.command("hpa")(fetch_from_hpa)
    app.add_typer(fetching, name="fetch")


def fetch_from_hpa(
    out: Out,
    base: BaseUrl = None,
    genes: Genes = None,
    catalog: Catalog = None,
    reliability: Reliabilities = "enhanced,supported,approved",
    cell_line: CellLines = None,
    colors: Colors = "red,green,blue,yellow",
    unlabeled: Unlabeled = False,
    label_set: LabelSetName = "hpa28",
    jobs: Jobs = 4,
    rate: Rate = 10.0,
    timeout_s: Timeout = 30.0,
    attempts: Attempts = 6,
    contact: Contact = "",
    license_name: LicenseName = None,
    limit: Limit = None,
    plan: PlanOnly = False,
    verify: Verify = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Fetch images of the Human Protein Atlas and the labels of their wells, for `cytoloc import hpa`.

    Files that cannot be fetched are listed in failed.csv. Fetches are resumable: rerun the command and it continues.
    The exit code is 1 if no image could be fetched.

    Example: `cytoloc fetch hpa --genes genes.txt --plan --out v18`, then without `--plan`, then `cytoloc import hpa
    v18/images --labels v18/labels.csv --out external.dataset`
    """
    from cytoloc.hpa.fetching import FetchOptions, fetch_hpa, plan_hpa
    from cytoloc.labels.label_set import find_label_set

    options = FetchOptions(
        base=base,
        catalog=catalog,
        reliability=[word.strip().lower() for word in reliability.split(",")],
        cell_lines=cell_line or None,
        colors=[word.strip().lower() for word in colors.split(",")],
        unlabeled=unlabeled,
        label_set=find_label_set(label_set),
        limit=limit,
        license_name=license_name,
        verify=verify,
        progress=progress,
        jobs=jobs,
        rate_per_s=rate,
        timeout_s=timeout_s,
        attempts=attempts,
        contact=contact,
        strict=strict,
        report=now_and_then(),
    )
    try:
        with terminated_as_interrupted():
            if plan:
                planned = plan_hpa(genes, out=out, options=options)
            else:
                fetched = fetch_hpa(genes, out=out, options=options)
                planned = fetched.plan
    except KeyboardInterrupt:
        typer.echo(f"{out}: the fetch was stopped. Rerun the same command to continue.", err=True)
        raise
    for path, number in planned.skipped_rows.items():
        rows = counted(number, "row")
        _warn(f"{path}: {rows} skipped, without an Ensembl id or with missing cells.")
    if as_json:
        typer.echo(json.dumps(planned.to_json() if plan else fetched.to_json(), indent=2))
    elif plan:
        _print_plan(planned)
    else:
        _print_fetched(out, fetched)
    if not plan and not fetched.images + fetched.already_there:
        raise typer.Exit(1)


def _warn(line: str) -> None:
    typer.secho(line, fg="yellow", err=True)


def _print_plan(plan: FetchPlan) -> None:
    facts = plan.to_json()
    typer.echo(f"{'location':<34} {'fields':>7}")
    for row in facts["locations"]:
        name = f"{row['key']:>2} {row['location']}" if row["key"].isdecimal() else row["location"]
        typer.echo(f"{name:<34} {row['fields']:>7}")
    typer.echo(
        f"\n{counted(facts['fields'], 'field')} of {counted(facts['wells'], 'well')}, antibodies:"
        f" {facts['antibodies']}, {counted(facts['genes'], 'gene')} ({facts['genes_without_images']} without"
        " subcellular images)."
    )
    missing = len(plan.images) - plan.images_here
    size = f"{missing} to fetch; the site does not state their size"
    if plan.estimated_bytes is not None:
        size = (
            f"{missing} to fetch, about {_in_units(plan.estimated_bytes)} (estimated from {plan.sampled_images} images"
            f" of {plan.estimated_bytes / missing / 1e3:.0f} kB on average)"
        )
    typer.echo(
        f"{counted(len(plan.images), 'image')}, {plan.images_here} of them fetched already;"
        f" {size if missing else 'none to fetch'}."
    )
    _print_names(plan.selection)
    for reason, number in plan.selection.left_out.most_common():
        typer.echo(f"Left out: {counted(number, 'field')} {reason}.")
    _print_failures(plan.failed)


def _print_fetched(out: Path, fetched: Fetched) -> None:
    selection = fetched.plan.selection
    typer.echo(
        f"{out}: {counted(len(selection.fields), 'field')}; {counted(fetched.images, 'image')} fetched"
        f" ({fetched.size_bytes / 1e6:.1f} MB), {fetched.already_there} already there."
    )
    if fetched.changed:
        changed = counted(len(fetched.changed), "image")
        _warn(f"{changed} with another checksum than recorded, fetched again, such as {fetched.changed[0]}.")
    _print_names(selection)
    for reason, number in selection.left_out.most_common():
        typer.echo(f"  left out: {counted(number, 'field')} {reason}", err=True)
    _print_failures(fetched.failed, where=out)
    if selection.fields:
        typer.echo(f"Next: cytoloc import hpa {out}/images --labels {out}/labels.csv --out external.dataset")


def _in_units(number: float) -> str:
    """Return a number of bytes with a unit.

    >>> _in_units(31_500), _in_units(4.2e6), _in_units(1.72e10)
    ('32 kB', '4.2 MB', '17 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 10 * size else f"{number / size:.0f} {unit}"
    return f"{number / 1e3:.0f} kB"


def _print_names(selection: FieldSelection) -> None:
    names = selection.unknown.most_common()
    if names:
        shown = ", ".join(f"{name} ({number})" for name, number in names[:MOST_PRINTED])
        more = f" and {len(names) - MOST_PRINTED} more" if len(names) > MOST_PRINTED else ""
        _warn(f"Unknown location names, which gave no label: {shown}{more}.")
    others = selection.without.most_common(MOST_PRINTED)
    if others:
        shown = ", ".join(f"{name} ({number})" for name, number in others)
        typer.echo(f"  Not in the label set {selection.label_set.name}: {shown}", err=True)


def _print_failures(failed: Sequence[FailedFile], *, where: Path | None = None) -> None:
    if failed:
        listed = f"; {where / 'failed.csv'} lists all" if where else ""
        _warn(f"{counted(len(failed), 'file')} could not be fetched{listed}:")
        for row in failed[:MOST_PRINTED]:
            typer.echo(f"  {row.file}: {row.reason}", err=True)
