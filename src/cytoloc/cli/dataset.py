"""Commands that make datasets and look at them: info, show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.cli.console import counted, like, require_nets

if TYPE_CHECKING:
    from cytoloc.dataset.store import Dataset

DatasetPath = Annotated[str, typer.Argument(help="A dataset: a folder, or a URL.", metavar="DATASET")]


SHOWN = 12
"""Fields of a contact sheet."""


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("info")(info)
    app.command("show")(show)


def info(
    path: Annotated[str, typer.Argument(help="A dataset: a folder, or a URL; or builtin.", metavar="DATASET|BUNDLE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read every pixel and compare its checksum.")] = False,
) -> None:
    """Say what a dataset holds: fields, sizes, labels, wells; with --check whether it is intact. Of a bundle, its card.

    Example: `cytoloc info train.dataset --check`

    Example: `cytoloc info model.cytoloc`
    """
    if path.endswith(".cytoloc") or (path == "builtin" and not Path(path).exists()):
        require_nets()
        from cytoloc.predict.bundle import builtin_bundle, read_card

        typer.echo(read_card(builtin_bundle() if path == "builtin" else Path(path)), nl=False)
        return
    from cytoloc.dataset.store import open_dataset
    from cytoloc.errors import FormatError

    dataset = open_dataset(path)
    if check:
        damaged = list(dataset.damaged())
        if damaged:
            raise FormatError(
                f"{path}: {len(damaged)} of {len(dataset)} fields are damaged: {', '.join(damaged[:5])}.",
                hint="Import the dataset again.",
            )
    facts = describe(dataset)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    known = facts["labeled"]
    megabytes = "" if facts["megabytes"] is None else f", {facts['megabytes']:.1f} MB"
    holds = f"{counted(facts['fields'], 'field')} of {facts['size']} px"
    typer.echo(f"{path}: {holds}, {known} labeled{megabytes}")
    typer.echo(f"channels     {', '.join(facts['channels'])}")
    typer.echo(f"label set    {dataset.label_set}")
    if facts["quarantined"]:
        typer.echo(
            f"quarantine   {counted(facts['quarantined'], 'field')} could not be imported: {path}/quarantine.csv"
        )
    for what, each in zip(chain(["made by"], repeat("added by")), facts["imports"], strict=False):
        typer.echo(f"{what:<12} {', '.join(_settings(each['settings'], dataset.channels))}")
        if not each["finished"]:
            typer.secho(
                f"unfinished   {each['done']} of {counted(each['items'], 'item')} done. Rerun the import to continue.",
                fg="yellow",
            )
    typer.echo(f"segments     {facts['segments']}")
    typer.echo(f"originals    {', '.join(f'{n} of {px} px' for px, n in facts['original_px'].items())}")
    unplaced = "plates of wells not known" if facts["wells_without_plate"] else "wells not known"
    wells = counted(facts["wells"], "well") if facts["wells"] else unplaced
    antibodies = counted(facts["antibodies"], "antibody", "antibodies") if facts["antibodies"] else ""
    typer.echo(f"source       {', '.join(facts['sources'])}; {', '.join(filter(None, (wells, antibodies)))}")
    typer.echo(f"fingerprint  {facts['fingerprint'][:16]}{'  (every pixel checked)' if check else ''}")
    flags = [f"{what} {n}" for what, n in facts["flags"].items()]
    typer.echo(f"flags        {', '.join(flags) or 'none'}")
    if known:
        typer.echo("fields per location")
    width = max((len(row["key"]) for row in facts["locations"]), default=0)
    for row in facts["locations"]:
        bar = "█" * max(1, round(40 * row["fields"] / max(r["fields"] for r in facts["locations"])))
        typer.echo(f"  {row['key']:>{width}}  {row['name']:<30} {row['fields']:>6}  {bar}")


def _settings(made_by: dict[str, Any], channels: tuple[str, ...], prefix: str = "") -> Iterator[str]:
    """Yield the settings of an import, one at a time, without those that were not given."""
    for name, value in made_by.items():
        if isinstance(value, dict):
            yield from _settings(value, channels, f"{prefix}{name} ")
        elif name == "jointly":
            yield from _settings(dict(zip(channels, value, strict=True)), channels, f"{prefix}{name} ")
        elif value is not None and value is not False:
            shown = value[:16] if name.endswith("sha256") else f"{value:.6g}" if isinstance(value, float) else value
            yield f"{prefix}{name} {shown}"


def _megabytes(dataset: Dataset) -> float | None:
    """Return how much a dataset takes on the disk; None for one at a URL."""
    if isinstance(dataset.path, str):
        return None
    return sum(file.stat().st_size for file in dataset.folder.rglob("*") if file.is_file()) / 1e6


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what `info` says, as JSON values."""
    import polars as pl

    counts = dataset.truth.sum(axis=0)
    wells = dataset.fields.select("plate", "well").drop_nulls().unique().height
    edges = ["original_px", "original_width_px"]
    sizes = dataset.fields.group_by(edges).len().sort(edges)
    flags = (
        dataset.fields["flags"].explode().drop_nulls().value_counts().sort(["count", "flags"], descending=[True, False])
    )
    return {
        "fields": len(dataset),
        "size": dataset.size,
        "labeled": int(dataset.labeled.sum()),
        "megabytes": _megabytes(dataset),
        "channels": list(dataset.channels),
        "label_set": dataset.label_set.to_json(),
        "imports": dataset.header["imports"],
        "segments": len(dataset.manifest.segments),
        "quarantined": len(dataset.quarantine),
        "sources": dataset.fields["source"].unique().sort().to_list(),
        "original_px": {
            f"{height}" if width in (height, None) else f"{width} x {height}": count
            for height, width, count in sizes.iter_rows()
        },
        "flags": {what: int(n) for what, n in flags.iter_rows()},
        "wells": wells,
        "wells_without_plate": dataset.fields.filter(pl.col("plate").is_null())["well"].drop_nulls().n_unique(),
        "antibodies": dataset.fields.select(pl.col("antibody").drop_nulls().n_unique()).item(),
        "fingerprint": dataset.fingerprint,
        "locations": [
            {"key": location.key, "name": location.name, "fields": int(count)}
            for location, count in zip(dataset.label_set, counts, strict=True)
            if count
        ],
    }


def show(
    path: DatasetPath,
    ids: Annotated[
        list[str] | None, typer.Argument(help="Fields; by default twelve, spread over the dataset.", metavar="[ID]…")
    ] = None,
    out: Annotated[Path, typer.Option(help="The PNG; an existing one is replaced.")] = Path("contact-sheet.png"),
    predictions: Annotated[
        Path | None, typer.Option(help="CSV Id,Predicted: show it against the truth, of its fields only.")
    ] = None,
) -> None:
    """Draw a contact sheet: composite and channels of each field, its locations under it.

    Example: `cytoloc show test.dataset --predictions submission.csv --out sheet.png`
    """
    from cytoloc.dataset.store import open_dataset
    from cytoloc.errors import TableError
    from cytoloc.lists import read_labels
    from cytoloc.report.figures import contact_sheet

    dataset = open_dataset(path)
    predicted = read_labels(predictions, dataset.label_set, column="Predicted", blank=True) if predictions else None
    position = {name: row for row, name in enumerate(dataset.ids)}
    wanted = ids or _spread([name for name in dataset.ids if predicted is None or name in predicted])
    known = {str(path): list(position)}
    if predictions and predicted is not None:
        known[str(predictions)] = list(predicted)
    for where, names in known.items():
        missing = set(wanted).difference(names)
        if missing:
            first = next(name for name in wanted if name in missing)
            raise TableError(f"{where} has no field {first}.", hint=like(first, names))
    if not wanted:
        raise TableError(f"{path} has none of the fields in {predictions}.", hint="Give predictions of this dataset.")
    rows = [position[name] for name in wanted]
    labels = dataset.fields["labels"].to_list()
    truth = [None if labels[row] is None else tuple(labels[row]) for row in rows]
    contact_sheet(
        dataset.read(rows),
        wanted,
        truth,
        [predicted[name] for name in wanted] if predicted else None,
        out,
        channels=dataset.channels,
        label_set=dataset.label_set,
    )
    typer.echo(f"{out}: {counted(len(wanted), 'field')}.")


def _spread(names: list[str]) -> list[str]:
    """Return up to twelve names at equal distances: neighbors are often of one well, and look the same."""
    step = max(1.0, len(names) / SHOWN)
    return [names[int(place * step)] for place in range(min(SHOWN, len(names)))]
