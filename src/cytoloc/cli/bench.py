"""The command ``cytoloc bench``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.cli.console import progress, require_nets

if TYPE_CHECKING:
    from cytoloc.bench.atlas import AtlasBench
    from cytoloc.bench.duplicates import DuplicatesBench
    from cytoloc.bench.rounds import Way


Advance = Callable[[int, int], None]


class Bench(StrEnum):
    """What can be measured."""

    atlas = "atlas"
    duplicates = "duplicates"


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("bench")(bench)


def bench(
    names: Annotated[
        list[Bench] | None, typer.Argument(help="What to measure; by default all.", metavar="[NAME]…")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of {Id}_{red,green,blue,yellow}.png; by default simulated fields.")
    ] = None,
    fields: Annotated[int, typer.Option(help="How many fields, the given ones repeated.", min=64)] = 1000,
    size: Annotated[int, typer.Option(help="Edge of the packed pictures, in pixels.", min=32)] = 512,
    rounds: Annotated[int, typer.Option(help="How often each way is measured.", min=1)] = 5,
    workshop: Annotated[Path | None, typer.Option(help="Where files are made, and removed again.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure side by side with what people use today: every way in turns, ratios of the same round, their median.

    Example: `cytoloc bench atlas --images kaggle512/ --size 512`
    """
    from dataclasses import asdict

    from cytoloc.bench.atlas import AtlasBench, bench_atlas
    from cytoloc.bench.duplicates import bench_duplicates
    from cytoloc.bench.rounds import machine
    from cytoloc.simulate.study import simulate_kaggle

    require_nets()
    results: dict[str, AtlasBench | DuplicatesBench] = {}
    with tempfile.TemporaryDirectory(dir=workshop) as folder:
        if images is None:
            images = Path(folder) / "simulated"
            simulate_kaggle(images, n_fields=64, seed=0, size=size)
        for name in names or list(Bench):
            with progress(name.value) as advance:

                def told(_what: str, done: int, total: int, advance: Advance = advance) -> None:
                    advance(done, total)

                if name is Bench.atlas:
                    place = Path(folder) / name.value
                    results[name] = bench_atlas(images, place, fields=fields, size=size, rounds=rounds, advance=told)
                else:
                    results[name] = bench_duplicates(images, rounds=rounds, advance=told)
    if as_json:
        typer.echo(
            json.dumps({"machine": machine()} | {name: asdict(each) for name, each in results.items()}, indent=2)
        )
        return
    here = machine()
    typer.echo(f"{here['cpu']}, {here['cores']} cores; medians of {rounds} rounds, in turns")
    for each in results.values():
        if isinstance(each, AtlasBench):
            _show_atlas(each)
        else:
            _show_duplicates(each)


def _show_atlas(found: AtlasBench) -> None:
    typer.echo(f"\n{found.fields} fields of {found.size} px")
    _table("random batches of 32, uint8", found.uint8)
    _table("random batches of 32, float32", found.float32)
    _table("import", found.importing)
    typer.echo(
        f"\natlas {found.disk:.1%} of raw pixels (files {found.files:.1%}); import peaks at {found.import_mb:.0f} MB"
    )


def _show_duplicates(found: DuplicatesBench) -> None:
    typer.echo(f"\n{found.fields} fields; of {found.channels} channels {found.close:.1%} within 2 bits of ImageHash")
    _table("hashing, four channels a field", found.hashing)
    _table("searching, three channels", found.searching, unit="pairs/s")
    typer.echo(
        f"\n11,702 x 74,606 fields in {found.search_s:.2f} s and {found.search_mb:.0f} MB;"
        f" {found.found:.1%} of planted copies found"
    )


def _table(title: str, ways: list[Way], *, unit: str = "fields/s") -> None:
    typer.echo(f"\n{title:<40} {unit:>14} {'ratio':>9}  least to most")
    for way in ways:
        typer.echo(f"  {way.name:<38} {way.rate:>14,.0f} {way.ratio:>8,.2f}x  {way.least:,.2f} to {way.most:,.2f}")
