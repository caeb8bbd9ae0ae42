"""The commands ``cytoloc info`` and ``cytoloc show``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoloc.choices import Palette, is_builtin
from cytoloc.cli.console import counted, require_nets
from cytoloc.cli.members import AsJson

if TYPE_CHECKING:
    from cytoloc.predictions import Predictions

DatasetPath = Annotated[str, typer.Argument(help="Dataset: a folder or a URL.", metavar="DATASET")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("info")(info)
    app.command("show")(show)


def info(
    path: Annotated[
        str,
        typer.Argument(
            help="File or folder to describe: a dataset (also a URL), run, folder of runs, bundle, a built-in model"
            " (builtin, …), predictions, decision, recipe or CSV file.",
            metavar="PATH",
        ),
    ],
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Read every pixel of a dataset and compare its checksums.")
    ] = False,
) -> None:
    """Describe a file or folder, for example the fields, labels and wells of a dataset, or the card of a bundle.

    `--json` prints all facts, also checksums.

    Example: `cytoloc info train.dataset --check`

    Example: `cytoloc info model.cytoloc --json`
    """
    if path.endswith(".cytoloc") or is_builtin(path):
        require_nets()
    from cytoloc.contents import describe
    from cytoloc.dataset.store import open_dataset
    from cytoloc.errors import FormatError

    if check:
        dataset = open_dataset(path)
        damaged = list(dataset.damaged())
        if damaged:
            raise FormatError(
                f"{path}: {len(damaged)} of {len(dataset)} fields are damaged: {', '.join(damaged[:5])}.",
                hint="Import the dataset again from the image files.",
            )
    facts = describe(path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    elif facts["kind"] == "bundle":
        typer.echo(facts["card"], nl=False)
        if facts["int8"]:
            typer.echo("\nint8 networks, compared with float32:\n" + "\n".join(_plain_lines(facts["int8"], "  ")))
    elif facts["kind"] == "dataset":
        typer.echo("\n".join(_dataset_lines(path, facts, checked=check)))
    elif facts["kind"] == "predictions":
        label_set, provenance = facts["label_set"], dict(facts["provenance"])
        typer.echo(f"predictions of {counted(facts['fields'], 'field')}")
        typer.echo(f"label set: {label_set['name']}, {len(label_set['locations'])} locations")
        if facts["decided"]:
            typer.echo("with decided locations")
        if facts["rejected"]:
            typer.echo(f"fields that could not be read: {len(facts['rejected'])}")
        if provenance.pop("calibrated_by", None):
            typer.echo("calibrated by a decision")
        for line in _plain_lines(provenance):
            typer.echo(line)
    else:
        typer.echo("\n".join(_plain_lines(facts)))


def _plain_lines(facts: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Yield one line for each fact about a file."""
    for key, value in facts.items():
        name = key.replace("_", " ")
        if _is_hash(value):
            continue
        if key == "label_set" and isinstance(value, dict):
            yield f"{indent}{name}: {value['name']}, {len(value['locations'])} locations"
        elif isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _plain_lines(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{name}:"
            for each in value:
                parts = [
                    f"{what.replace('_', ' ')} {_in_words(part)}"
                    for what, part in each.items()
                    if not isinstance(part, dict | list) and not _is_hash(part)
                ]
                yield f"{indent}  {', '.join(parts)}"
        elif isinstance(value, list):
            yield f"{indent}{name}: {', '.join(map(_in_words, value)) or 'none'}"
        else:
            yield f"{indent}{name}: {_in_words(value)}"


def _is_hash(value: object) -> bool:
    """Return whether a value is a SHA-256 hash, which only ``--json`` prints."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _in_words(value: object) -> str:
    """Return a value for people, such as ``yes`` for True."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None or value in ("", {}, []) else str(value)


def _dataset_lines(path: str, facts: dict[str, Any], *, checked: bool) -> Iterator[str]:
    """Yield the lines that describe a dataset."""
    known, label_set = facts["labeled"], facts["label_set"]
    megabytes = "" if facts["megabytes"] is None else f", {facts['megabytes']:.1f} MB"
    rows = counted(facts["fields"], "field")
    if "cells_of_fields" in facts:
        rows = f"{counted(facts['fields'], 'cell')} of {counted(facts['cells_of_fields'], 'field')}, images"
    yield f"{path}: {rows} of {facts['size']} px, {known} labeled{megabytes}"
    yield f"channels     {', '.join(facts['channels'])}"
    yield (
        f"label set    {label_set['name']} (version {label_set['version']}, {len(label_set['locations'])} locations)"
    )
    if facts["quarantined"]:
        yield f"quarantine   {counted(facts['quarantined'], 'field')} could not be imported: {path}/quarantine.csv"
    for what, each in zip(chain(["made by"], repeat("added by")), facts["imports"], strict=False):
        yield f"{what:<12} {', '.join(_settings(each['settings'], facts['channels']))}"
        if not each["finished"]:
            done = f"{each['done']} of {counted(each['items'], 'item')}"
            yield f"unfinished   {done} imported. Rerun the import to continue."
    yield f"segments     {facts['segments']}"
    yield f"originals    {', '.join(f'{n} of {px} px' for px, n in facts['original_px'].items())}"
    unplaced = "plates of wells unknown" if facts["wells_without_plate"] else "wells unknown"
    wells = counted(facts["wells"], "well") if facts["wells"] else unplaced
    antibodies = counted(facts["antibodies"], "antibody", "antibodies") if facts["antibodies"] else ""
    yield f"source       {', '.join(facts['sources'])}; {', '.join(filter(None, (wells, antibodies)))}"
    yield f"fingerprint  {facts['fingerprint'][:16]}{'  (every pixel checked)' if checked else ''}"
    yield f"flags        {', '.join(f'{what} {n}' for what, n in facts['flags'].items()) or 'none'}"
    if known:
        yield "fields per location"
    width = max((len(row["key"]) for row in facts["locations"]), default=0)
    most = max((row["fields"] for row in facts["locations"]), default=1)
    for row in facts["locations"]:
        bar = "█" * max(1, round(40 * row["fields"] / most))
        yield f"  {row['key']:>{width}}  {row['name']:<30} {row['fields']:>6}  {bar}"


def _settings(made_by: dict[str, Any], channels: list[str], prefix: str = "") -> Iterator[str]:
    """Yield the settings of an import that were given, one at a time."""
    for name, value in made_by.items():
        if isinstance(value, dict):
            yield from _settings(value, channels, f"{prefix}{name} ")
        elif name == "jointly":
            yield from _settings(dict(zip(channels, value, strict=True)), channels, f"{prefix}{name} ")
        elif value is not None and value is not False and not _is_hash(value):
            shown = f"{value:.6g}" if isinstance(value, float) else value
            yield f"{prefix}{name} {shown}"


def show(
    path: DatasetPath,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids of the fields to show. Default: twelve fields, evenly spaced in the dataset.", metavar="ID…"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help=".png, .svg or .pdf file to write. An existing file is replaced.")] = Path(
        "contact-sheet.png"
    ),
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Predictions to compare with the labels: a predictions file (.parquet, .csv), or a CSV file with"
            " columns Id,Predicted. Only its fields are shown."
        ),
    ] = None,
    most: Annotated[int, typer.Option("--fields", help="Number of fields, if no ids are given.", min=1)] = 12,
    large: Annotated[
        bool, typer.Option("--large", help="Draw each field as a row with all channels at full size.")
    ] = False,
    palette: Annotated[
        Palette,
        typer.Option(
            help="Colors of the composite: those of the Human Protein Atlas, or colors that people with red-green color"
            " blindness distinguish."
        ),
    ] = "hpa",
) -> None:
    """Draw a contact sheet with the composite, the channels and the locations of each field.

    A scale bar is drawn where the size of a pixel is known.

    Example: `cytoloc show test.dataset --predictions submission.csv --out sheet.png`

    Example: `cytoloc show test.dataset A01_1 A02_1 --predictions predictions.parquet --large --out figure.pdf`
    """
    from cytoloc.dataset.store import open_dataset
    from cytoloc.labels.lists import read_csv, read_labels
    from cytoloc.prediction_files import read_predictions
    from cytoloc.report.figures import SheetOptions, contact_sheet

    dataset = open_dataset(path)
    given: Predictions | dict[str, tuple[int, ...]] | None = None
    if predictions:
        is_table = predictions.is_file() and predictions.suffix.lower() not in (".parquet", ".npz", ".npy")
        if predictions.is_dir() or not is_table or "Predicted" not in read_csv(predictions).columns:
            given = read_predictions(predictions, label_set=None if not is_table else dataset.label_set)
        else:
            given = read_labels(predictions, dataset.label_set, column="Predicted", blank=True)
    options = SheetOptions(large=large, palette=palette, most=most)
    shown = contact_sheet(dataset, out, ids=ids, predictions=given, options=options)
    typer.echo(f"{out}: {counted(len(shown), 'field')}.")
