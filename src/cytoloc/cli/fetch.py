"""The command ``cytoloc fetch hpa``: images and labels of the Human Protein Atlas."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.cli.console import counted, now_and_then, progress, terminated_as_interrupted

if TYPE_CHECKING:
    from cytoloc.hpa.catalog import FieldSelection
    from cytoloc.hpa.fetching import Fetched, FetchPlan
    from cytoloc.hpa.site import FailedFile

MOST_PRINTED = 5
"""Names and failures that are printed; the files list all."""


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    fetching = typer.Typer(help="Fetch images and their labels.", no_args_is_help=True)
    fetching.command("hpa")(fetch_from_hpa)
    fetching.callback()(_group)
    app.add_typer(fetching, name="fetch")


def _group() -> None:
    """Fetch images and their labels."""


def _positive(value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter("must be a number more than 0.")
    return value


def _printable(value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise typer.BadParameter("must be printable ASCII, since it becomes part of a header.")
    return value


def fetch_from_hpa(
    out: Annotated[Path, typer.Option(help="The folder; new, or that of an earlier fetch, which is resumed.")],
    base: Annotated[
        str | None, typer.Option(help="Address of the site, also for images; release 18 by default.", metavar="URL")
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(help="Ensembl ids or gene names, one per line, or a table of the Atlas; all genes by default."),
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option(help="XML of many genes, plain or gzipped, instead of the site's XML of each gene.")
    ] = None,
    reliability: Annotated[
        str, typer.Option(help="Reliabilities of antibodies: of enhanced, supported, approved, uncertain.")
    ] = "enhanced,supported,approved",
    cell_line: Annotated[list[str] | None, typer.Option(help="Only this cell line. May be repeated.")] = None,
    colors: Annotated[
        str, typer.Option(help="Channels: of red, green, blue, yellow; an import needs all.")
    ] = "red,green,blue,yellow",
    unlabeled: Annotated[
        bool, typer.Option("--unlabeled", help="Also fields without any location of the label set.")
    ] = False,
    label_set: Annotated[
        str,
        typer.Option(
            help="Label set of labels.csv: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.", metavar="NAME|FILE"
        ),
    ] = "hpa28",
    jobs: Annotated[int, typer.Option(help="Number of files that are fetched at once.", min=1, max=16)] = 4,
    rate: Annotated[float, typer.Option(help="Maximum number of requests per second.", callback=_positive)] = 10.0,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", help="How long the site may send nothing.", callback=_positive)
    ] = 30.0,
    attempts: Annotated[int, typer.Option(help="Maximum number of requests for one file.", min=1, max=20)] = 6,
    contact: Annotated[
        str, typer.Option(help="Your e-mail address, for the owners of the site (User-Agent).", callback=_printable)
    ] = "",
    license_name: Annotated[
        str | None, typer.Option("--license", help="License for the manifest; known for releases 15 and 18.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Maximum number of fields; the first ones are fetched.", min=1)
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only fetch the catalog, and show what would be fetched.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the hashes of files that are there.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first file that cannot be fetched.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch fields of the Human Protein Atlas, with the labels of their wells, for `import hpa`.

    Files that cannot be fetched are listed in failed.csv. A fetch is resumable: rerun the command. The exit code is 1
    if no image could be fetched.

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
        typer.echo(f"{out}: stopped. Rerun the command to resume.", err=True)
        raise
    for path, number in planned.skipped_rows.items():
        rows = counted(number, "row")
        _warn(f"{path}: {rows} without an Ensembl id, or with missing cells, skipped.")
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
        f"{counted(len(plan.images), 'image')}, {plan.images_here} of them here;"
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
        _warn(f"{changed} had been changed here and requested again, such as {fetched.changed[0]}.")
    _print_names(selection)
    for reason, number in selection.left_out.most_common():
        typer.echo(f"  left out: {counted(number, 'field')} {reason}", err=True)
    _print_failures(fetched.failed, where=out)


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
        _warn(f"Unknown names of locations, which gave no label: {shown}{more}.")
    others = selection.without.most_common(MOST_PRINTED)
    if others:
        shown = ", ".join(f"{name} ({number})" for name, number in others)
        typer.echo(f"  not in the label set {selection.label_set.name}: {shown}", err=True)


def _print_failures(failed: Sequence[FailedFile], *, where: Path | None = None) -> None:
    if failed:
        listed = f"; {where / 'failed.csv'} lists all" if where else ""
        _warn(f"{counted(len(failed), 'file')} could not be fetched{listed}:")
        for row in failed[:MOST_PRINTED]:
            typer.echo(f"  {row.file}: {row.reason}", err=True)
