"""The command ``cytoloc bench``."""

from __future__ import annotations

import json
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.cli.console import progress, require_nets

if TYPE_CHECKING:
    from cytoloc.bench.rounds import Way


class Bench(StrEnum):
    """What can be measured."""

    atlas = "atlas"


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

    from cytoloc.bench.atlas import bench_atlas
    from cytoloc.bench.rounds import machine
    from cytoloc.simulate.study import simulate_kaggle

    require_nets()
    results = {}
    with tempfile.TemporaryDirectory(dir=workshop) as folder:
        if images is None:
            images = Path(folder) / "simulated"
            simulate_kaggle(images, n_fields=64, seed=0, size=size)
        for name in names or list(Bench):
            with progress(name.value) as advance:
                measured = bench_atlas(
                    images,
                    Path(folder) / name.value,
                    fields=fields,
                    size=size,
                    rounds=rounds,
                    advance=lambda _what, done, total: advance(done, total),
                )
            results[name.value] = measured
    if as_json:
        typer.echo(
            json.dumps({"machine": machine()} | {name: asdict(each) for name, each in results.items()}, indent=2)
        )
        return
    here = machine()
    typer.echo(f"{here['cpu']}, {here['cores']} cores; medians of {rounds} rounds, in turns")
    for each in results.values():
        typer.echo(f"\n{each.fields} fields of {each.size} px")
        _table("random batches of 32, uint8", each.uint8)
        _table("random batches of 32, float32", each.float32)
        _table("import", each.importing)
        typer.echo(
            f"\natlas {each.disk:.1%} of raw pixels (files {each.files:.1%}); import peaks at {each.import_mb:.0f} MB"
        )


def _table(title: str, ways: list[Way]) -> None:
    typer.echo(f"\n{title:<40} {'fields/s':>9} {'ratio':>7}  least to most")
    for way in ways:
        typer.echo(f"  {way.name:<38} {way.rate:>9.0f} {way.ratio:>6.2f}x  {way.least:.2f} to {way.most:.2f}")
