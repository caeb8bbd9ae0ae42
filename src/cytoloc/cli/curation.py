"""Commands that look at fields before anything learns from them: duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.cli.console import counted, progress

if TYPE_CHECKING:
    import polars as pl

    from cytoloc.atlas.store import Atlas

SHOWN = 24
"""Pairs on a sheet."""


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("duplicates")(duplicates)


def duplicates(
    paths: Annotated[
        list[str], typer.Argument(help="Atlases; fields of all are compared with each other.", metavar="ATLAS…")
    ],
    out: Annotated[Path, typer.Option(help="The new CSV of pairs; `folds --pairs` and `train` keep them together.")],
    limits: Annotated[
        str, typer.Option(help="Most bits of 64 by which the hashes of microtubules, protein, nucleus may differ.")
    ] = "14,12,10",
    turns: Annotated[bool, typer.Option(help="Also turned and mirrored copies; reads every picture once.")] = True,
    confirm: Annotated[bool, typer.Option(help="Lay the pictures of each pair over each other.")] = True,
    groups: Annotated[
        Path | None, typer.Option(help="A new CSV id,group of the fields that copies tie together.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="A PNG of the doubtful pairs, side by side.")] = None,
) -> None:
    """Find near-duplicate fields, within and across atlases.

    Pairs are found by perceptual hashes and confirmed on their pixels: the column verdict says copy, doubtful or
    different, and only the first two are written.

    Example: `cytoloc duplicates train.atlas external.atlas --out pairs.csv --sheet doubtful.png`
    """
    import polars as pl

    from cytoloc.atlas.store import open_atlas
    from cytoloc.curation.duplicates import find_duplicates, groups_of, write_duplicates
    from cytoloc.curation.hamming import DEFAULT_LIMITS
    from cytoloc.files import new_file, refuse_existing

    words = limits.split(",")
    if len(words) != len(DEFAULT_LIMITS) or not all(word.strip().isdecimal() and int(word) <= 64 for word in words):
        raise typer.BadParameter(
            f"{limits!r} is not three numbers from 0 to 64, as in 14,12,10.", param_hint="'--limits'"
        )
    for path in (out, groups):
        if path is not None:
            refuse_existing(path)
    atlases = [open_atlas(path) for path in paths]
    most = {role: int(word) for role, word in zip(DEFAULT_LIMITS, words, strict=True)}
    with progress("looking for duplicates") as advance:
        found = find_duplicates(
            atlases, limits=most, turns=turns, confirm=confirm, advance=lambda _what, done, total: advance(done, total)
        )
    pairs = found.filter(pl.col("verdict").fill_null("") != "different")
    write_duplicates(pairs, out)
    certain = pairs.filter(pl.col("verdict").fill_null("copy") == "copy")
    together = groups_of(certain)
    if groups is not None:
        rows = [(name, number) for number, group in enumerate(together) for name in group]
        with new_file(groups) as temporary:
            pl.DataFrame(rows, schema={"id": pl.String, "group": pl.Int64}, orient="row").write_csv(temporary)
    doubtful = pairs.filter(pl.col("verdict") == "doubtful")
    said = f"{out}: {counted(pairs.height, 'pair')} of {sum(map(len, atlases))} fields"
    kinds = f", {doubtful.height} of them doubtful; hashes suggested {found.height}" if confirm else ", not confirmed"
    largest = f"; the largest group has {len(together[0])} fields" if together else ""
    typer.echo(f"{said}{kinds}{largest}.")
    if sheet is not None:
        _draw(doubtful, atlases, sheet)


def _draw(doubtful: pl.DataFrame, atlases: list[Atlas], sheet: Path) -> None:
    """Draw the surest of the doubtful pairs."""
    from cytoloc.pictures.hashes import turned
    from cytoloc.report.figures import pair_sheet

    rows = {str(atlas.path): {name: row for row, name in enumerate(atlas.ids)} for atlas in atlases}
    opened = {str(atlas.path): atlas for atlas in atlases}
    shown = list(doubtful.head(SHOWN).iter_rows(named=True))
    if not shown:
        typer.echo("No pair is doubtful: nothing to draw.")
        return
    pictures = [
        (
            turned(opened[pair["atlas_a"]][rows[pair["atlas_a"]][pair["a"]]], pair["transform"]),
            opened[pair["atlas_b"]][rows[pair["atlas_b"]][pair["b"]]],
        )
        for pair in shown
    ]
    captions = [(pair["a"], pair["b"], f"correlation {pair['correlation']:.2f}, {pair['transform']}") for pair in shown]
    pair_sheet(pictures, captions, sheet)
    left = f" of {doubtful.height}" if doubtful.height > len(shown) else ""
    typer.echo(f"{sheet}: {counted(len(shown), 'doubtful pair')}{left}.")
