"""The commands ``cytoloc fetch …``: images and labels from the sites that publish them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.cli.console import counted, now_and_then, progress, terminated_as_interrupted

if TYPE_CHECKING:
    from cytoloc.hpa.catalog import Gene
    from cytoloc.hpa.fetching import Fetched
    from cytoloc.hpa.genes import Genes
    from cytoloc.hpa.plan import Guess, Plan
    from cytoloc.hpa.selection import Wanted
    from cytoloc.hpa.site import Remote, Site
    from cytoloc.hpa.store import Store

SHOWN = 5
"""Names, genes and failures that are printed; the files list all."""


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    fetching = typer.Typer(help="Fetch images and their labels.", no_args_is_help=True)
    fetching.command()(hpa)
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
        raise typer.BadParameter("must be printable ASCII: it becomes part of a header.")
    return value


def hpa(
    out: Annotated[Path, typer.Option(help="The folder; that of an earlier fetch is gone on with.")],
    base: Annotated[
        str | None, typer.Option(help="The site, also for images; by default that of release 18.", metavar="URL")
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(help="Ensembl ids or names of genes, or a table of the Atlas; by default all with images."),
    ] = None,
    catalog: Annotated[
        Path | None, typer.Option(help="The Atlas's XML of many genes, plain or gzipped, instead of one by one.")
    ] = None,
    reliability: Annotated[
        str, typer.Option(help="Of enhanced, supported, approved, uncertain.")
    ] = "enhanced,supported,approved",
    cell_line: Annotated[list[str] | None, typer.Option(help="Only these cells; may be given more than once.")] = None,
    colors: Annotated[str, typer.Option(help="Of red, green, blue, yellow; an import needs all.")] = (
        "red,green,blue,yellow"
    ),
    unlabeled: Annotated[
        bool, typer.Option("--unlabeled", help="Also fields without any location of the label set.")
    ] = False,
    label_set: Annotated[
        str,
        typer.Option(
            help="Label set of labels.csv: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.", metavar="NAME|FILE"
        ),
    ] = "hpa28",
    jobs: Annotated[int, typer.Option(help="Files at once.", min=1, max=16)] = 4,
    rate: Annotated[float, typer.Option(help="Most requests a second.", callback=_positive)] = 10.0,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", help="How long the site may say nothing.", callback=_positive)
    ] = 30.0,
    attempts: Annotated[int, typer.Option(help="How often a file is asked for.", min=1, max=20)] = 6,
    contact: Annotated[
        str, typer.Option(help="Your e-mail, for the site's keepers; part of the User-Agent.", callback=_printable)
    ] = "",
    license_name: Annotated[
        str | None,
        typer.Option(
            "--license", help="For the manifest, which knows those of releases 15 and 18; see /about/license there."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many fields.", min=1)] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Fetch the catalog, say what would come, and stop.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read what is here and compare its hashes.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first file that cannot be had.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fetch the Human Protein Atlas's fields, labeled per well, in the form that `import hpa` takes.

    Files that cannot be had are listed in failed.csv and the rest goes on; started again, it goes on where it was. If
    not one of the images is here at the end, the exit code is 1.

    Example: `cytoloc fetch hpa --genes genes.txt --plan --out v18`, then without `--plan`, then `cytoloc import hpa
    v18/images --labels v18/labels.csv --out external.dataset`
    """
    from cytoloc.hpa.download import Downloader, require_libraries
    from cytoloc.hpa.pace import Pace
    from cytoloc.hpa.plan import COLORS
    from cytoloc.hpa.selection import RELIABILITIES, Wanted
    from cytoloc.hpa.site import BASE, Site
    from cytoloc.hpa.store import Store
    from cytoloc.labels import find_label_set

    wanted = Wanted(
        reliability=frozenset(_words(reliability, RELIABILITIES, "--reliability")),
        cell_lines=frozenset(cell_line) if cell_line else None,
        unlabeled=unlabeled,
        limit=limit,
        label_set=find_label_set(label_set),
    )
    chosen = _words(colors, COLORS, "--colors")
    pace, say = Pace(rate), now_and_then()
    site = Site(
        base=BASE if base is None else _address(base),
        moved=base is not None,
        downloader=lambda: Downloader(pace, timeout_s=timeout_s, attempts=attempts, contact=contact, say=say),
        jobs=jobs,
        strict=strict,
    )
    listed = _listed(genes) if genes else None
    require_libraries()
    try:
        with terminated_as_interrupted(), Store(out, base=_origin(site, catalog)).opened() as store:
            planned = _look_up(site, store, listed, catalog, wanted, chosen)
            if plan:
                _show_plan(site, store, planned, as_json=as_json)
            else:
                fetched = _fetch(site, store, planned, license_name=license_name, verify=verify)
    except KeyboardInterrupt:
        typer.echo(f"{out} was stopped; the same command goes on from where it was.", err=True)
        raise
    if not plan:
        _show_fetched(out, planned, fetched, as_json=as_json)
        if not fetched.came + fetched.known:
            raise typer.Exit(1)


def _origin(site: Site, catalog: Path | None) -> str:
    """Return what a folder belongs to: the site, or what a file of many genes says of itself.

    Raises:
        FormatError: If there is no such file, or it is none of genes.
    """
    from cytoloc.errors import FormatError
    from cytoloc.files import existing
    from cytoloc.hpa.lookup import origin_of_file

    if catalog is None:
        return site.base
    existing(catalog, error=FormatError, what="catalog file")
    return site.base if site.moved else origin_of_file(catalog)


def _listed(path: Path) -> Genes:
    """Return the genes in a file, and say which of its rows were passed over."""
    from cytoloc.hpa.genes import read_genes

    listed = read_genes(path)
    _tell_passed_over(path, listed.passed_over)
    return listed


def _tell_passed_over(path: Path, number: int) -> None:
    if number:
        rows = counted(number, "row")
        typer.secho(f"{path}: {rows} without an Ensembl id, or cut short, passed over.", fg="yellow", err=True)


def _fetch(site: Site, store: Store, planned: Plan, *, license_name: str | None, verify: bool) -> Fetched:
    """Write the tables and bring the images.

    Raises:
        FetchError: If there is nothing to bring.
    """
    from cytoloc.errors import FetchError
    from cytoloc.hpa.fetching import fetch_images
    from cytoloc.hpa.plan import write_tables

    if not planned.selection.fields:
        why = [f"{number} {reason}" for reason, number in planned.selection.left_out.most_common(SHOWN)]
        raise FetchError(
            f"No field of {counted(len(planned.genes), 'gene')} is wanted: {', '.join(why) or 'there are none'}.",
            hint="See --reliability, --cell-line and --unlabeled; --plan says what there is.",
        )
    write_tables(store, planned)
    with progress("fetching") as advance:
        return fetch_images(site, store, planned, license_name=license_name, verify=verify, advance=advance)


def _look_up(
    site: Site, store: Store, listed: Genes | None, catalog: Path | None, wanted: Wanted, colors: tuple[str, ...]
) -> Plan:
    """Return what there is and what is wanted of it, from one file or from the site's XML of each gene."""
    from cytoloc.hpa.lookup import GENE_TABLE, fetch_genes, genes_in, genes_of_file, not_in_file, wanted_genes
    from cytoloc.hpa.plan import make_plan
    from cytoloc.hpa.selection import select

    if catalog is not None:
        planned = make_plan(genes_of_file(catalog, listed), wanted, colors=colors, site=site, failed=[])
        if listed is not None:
            planned.failed.extend(not_in_file(catalog, listed, [(row.ensembl, row.gene) for row in planned.genes]))
            _refuse_none(planned, len(planned.failed), f"is in {catalog.name}")
        return planned
    ids, failed, passed_over = wanted_genes(site, store, listed)
    _tell_passed_over(store.folder / GENE_TABLE, passed_over)
    found = 0

    def enough(some: Iterator[Gene]) -> bool:
        nonlocal found
        found += len(select(some, wanted).fields)
        return wanted.limit is not None and found >= wanted.limit

    with progress("looking up genes") as advance:
        asked, more = fetch_genes(site, store, ids, advance=advance, enough=enough if wanted.limit else None)
    failed += more
    planned = make_plan(genes_in(store, asked), wanted, colors=colors, site=site, failed=failed)
    _refuse_none(planned, len(ids) or len(failed), f"could be looked up at {site.base}")
    return planned


def _refuse_none(planned: Plan, asked: int, found: str) -> None:
    from cytoloc.errors import FetchError

    if not planned.genes:
        first = planned.failed[0] if planned.failed else None
        reason = f"; {first.file}: {first.reason}" if first else "."
        raise FetchError(
            f"None of {counted(asked, 'gene')} {found}{reason}", hint="Check --genes, and --base or --catalog."
        )


def _show_plan(site: Site, store: Store, plan: Plan, *, as_json: bool) -> None:
    """Say what would come."""
    from cytoloc.hpa.plan import guess_size, lacking

    missing = lacking(store, plan.images)
    guess = guess_size(site, missing)
    chosen = plan.selection
    facts: dict[str, Any] = {
        "genes": len(plan.genes),
        "genes_without_images": sum(row.fields == 0 for row in plan.genes),
        "antibodies": len({each.folder for each in chosen.fields}),
        "wells": len({each.place for each in chosen.fields}),
        "fields": len(chosen.fields),
        "images": len(plan.images),
        "images_here": len(plan.images) - len(missing),
        "estimated_bytes": round(guess.mean_bytes * len(missing)) if guess else None,
        "sampled_images": guess.sample if guess else 0,
        "label_set": chosen.label_set.name,
        "locations": [
            {"key": each.key, "location": each.name, "fields": number}
            for each, number in zip(chosen.label_set, chosen.per_location, strict=True)
        ],
        "unknown_names": dict(chosen.unknown.most_common()),
        "without_location": dict(chosen.without.most_common()),
        "left_out": dict(chosen.left_out.most_common()),
        "failed": [row._asdict() for row in plan.failed],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{'location':<34} {'fields':>7}")
    for row in facts["locations"]:
        name = f"{row['key']:>2} {row['location']}" if row["key"].isdecimal() else row["location"]
        typer.echo(f"{name:<34} {row['fields']:>7}")
    typer.echo(
        f"\n{counted(facts['fields'], 'field')} of {counted(facts['wells'], 'well')},"
        f" antibodies: {facts['antibodies']}, {counted(facts['genes'], 'gene')}"
        f" ({facts['genes_without_images']} without subcellular images)."
    )
    typer.echo(f"{counted(facts['images'], 'image')}, {facts['images_here']} of them here; {_size(missing, guess)}.")
    _tell_names(plan)
    for reason, number in chosen.left_out.most_common():
        typer.echo(f"Left out: {counted(number, 'field')} {reason}.")
    _tell_failures(plan.failed)


def _bytes(number: float) -> str:
    """Return a number of bytes as people say it.

    >>> _bytes(31_500), _bytes(4.2e6), _bytes(1.72e10)
    ('32 kB', '4.2 MB', '17 GB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}" if number < 10 * size else f"{number / size:.0f} {unit}"
    return f"{number / 1e3:.0f} kB"


def _size(missing: list[Remote], guess: Guess | None) -> str:
    if not missing:
        return "nothing is to come"
    if guess is None:
        return f"{len(missing)} to come, and the site does not say how large they are"
    return (
        f"{len(missing)} to come, about {_bytes(guess.mean_bytes * len(missing))} (an estimate: a sample of"
        f" {guess.sample} has {guess.mean_bytes / 1e3:.0f} kB an image)"
    )


def _show_fetched(out: Path, plan: Plan, fetched: Fetched, *, as_json: bool) -> None:
    """Say what came and what did not."""
    if as_json:
        facts = {
            "fields": len(plan.selection.fields),
            "came": fetched.came,
            "bytes": fetched.size_bytes,
            "here_before": fetched.known,
            "changed": fetched.changed,
            "failed": [row._asdict() for row in fetched.failed],
            "unknown_names": dict(plan.selection.unknown.most_common()),
            "left_out": dict(plan.selection.left_out.most_common()),
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(
        f"{out}: {counted(len(plan.selection.fields), 'field')}; {counted(fetched.came, 'image')} came"
        f" ({fetched.size_bytes / 1e6:.1f} MB), {fetched.known} were here."
    )
    if fetched.changed:
        typer.secho(
            f"{counted(len(fetched.changed), 'image')} here had changed since and came anew, such as"
            f" {fetched.changed[0]}.",
            fg="yellow",
            err=True,
        )
    _tell_names(plan)
    for reason, number in plan.selection.left_out.most_common():
        typer.echo(f"  left out: {counted(number, 'field')} {reason}", err=True)
    _tell_failures(fetched.failed, where=out)


def _tell_names(plan: Plan) -> None:
    """Say which names are not known."""
    names = plan.selection.unknown.most_common()
    if names:
        shown = ", ".join(f"{name} ({number})" for name, number in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        typer.secho(f"Names of locations that are not known, and gave no label: {shown}{more}.", fg="yellow", err=True)
    dropped = plan.selection.without.most_common(SHOWN)
    if dropped:
        shown = ", ".join(f"{name} ({number})" for name, number in dropped)
        typer.echo(f"  known, but not in the label set {plan.selection.label_set.name}: {shown}", err=True)


def _tell_failures(failed: list[Any], *, where: Path | None = None) -> None:
    """Say what could not be had."""
    if failed:
        listed = f"; {where / 'failed.csv'} lists all" if where else ""
        typer.secho(f"{counted(len(failed), 'file')} could not be had{listed}:", fg="yellow", err=True)
        for row in failed[:SHOWN]:
            typer.echo(f"  {row.file}: {row.reason}", err=True)


def _words(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip().lower() for word in text.split(",")))
    for word in words:
        if word not in known:
            raise typer.BadParameter(f"{word!r} is not one of {', '.join(known)}.", param_hint=f"'{option}'")
    return words


def _address(base: str) -> str:
    """Return a site's address without what follows its last name."""
    from cytoloc.hpa.address import host_of

    if host_of(base) is None or any(sign in base for sign in "?#"):
        raise typer.BadParameter(
            f"{base!r} is not an address like https://v18.proteinatlas.org.", param_hint="'--base'"
        )
    return base.rstrip("/")
