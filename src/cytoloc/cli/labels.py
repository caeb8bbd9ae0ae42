"""The commands ``cytoloc labels``, ``labels show`` and ``labels convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cytoloc.cli.console import counted
from cytoloc.cli.members import AsJson
from cytoloc.labels.label_set import SHIPPED, find_label_set


class _Group(TyperGroup):
    """Run ``cytoloc labels NAME`` as ``cytoloc labels show NAME``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names, or the command ``show``."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    labels = typer.Typer(cls=_Group, invoke_without_command=True)
    labels.callback()(shipped)
    labels.command()(show)
    labels.command()(convert)
    app.add_typer(labels, name="labels")


def shipped(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the label sets that come with cytoloc, or show one, or convert files between two.

    Example: `cytoloc labels`

    Example: `cytoloc labels hpa19` (short for `cytoloc labels show hpa19`)

    Example: `cytoloc labels convert predictions.parquet --to hpa19 --out converted.parquet`
    """
    if context.invoked_subcommand is not None:
        return
    sets = [find_label_set(name) for name in SHIPPED]
    if as_json:
        typer.echo(json.dumps([{"name": each.name, "locations": len(each)} for each in sets], indent=2))
        return
    typer.echo("\n".join(f"{each.name:<10} {len(each):>3} locations  {_ORIGINS[each.name]}" for each in sets))


_ORIGINS = {
    "hpa28": "the 2018 Kaggle competition",
    "hpa19": "the 2021 Kaggle competition",
    "subcell31": "the SubCell models",
    "hpa": "all names of release 25.1 of the Human Protein Atlas",
}


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Label set to show: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.", metavar="NAME|FILE"
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Show the locations of a label set, with the key, name and Gene Ontology id of each.

    Example: `cytoloc labels show my_labels.csv --json`
    """
    label_set = find_label_set(name)
    if as_json:
        typer.echo(json.dumps(label_set.to_json(), indent=2))
        return
    keys = max(len("key"), *map(len, label_set.keys))
    names = max(len("location"), *map(len, label_set.names))
    rows = [("key", "location", "GO id"), *label_set]
    typer.echo(
        "\n".join([str(label_set), *(f"{row[0]:<{keys}}  {row[1]:<{names}}  {row[2]}".rstrip() for row in rows)])
    )


def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="File to convert: a label list (.csv), predicted locations (.csv) or predictions (.parquet, .csv)."
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--to",
            help="Label set to convert to: hpa28, hpa19, subcell31, hpa, or a .csv or .toml file.",
            metavar="NAME|FILE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New file: .csv for labels and locations, .parquet for predictions.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Label set of the input file. Required for CSV files; a .parquet file states its label set.",
            metavar="NAME|FILE",
        ),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Convert labels or predictions from one label set to another, and report what is merged, lost or ambiguous.

    A field has a merged location if it has any of its parts. A field that loses all its labels is left out of a label
    list (`Id,Target`); in a submission (`Id,Predicted`) it stays with an empty cell.

    For predictions, a merged location gets the highest probability of its parts. A location without a counterpart
    gets probability 0.

    A CSV file is read as labels if it has a column of labels, or only zeros and ones. Otherwise it is read as
    predictions, with one column per location.

    Example: `cytoloc labels convert train.csv --from hpa28 --to hpa19 --out train-19.csv`

    Example: `cytoloc labels convert subcell.parquet --to hpa28 --out subcell-28.parquet`
    """
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, existing
    from cytoloc.label_conversion import conversion, convert_label_list, convert_predictions
    from cytoloc.labels.lists import label_column, read_csv
    from cytoloc.prediction_files import check_predictions_path, read_predictions, write_predictions

    check_outputs(out)
    given = find_label_set(source) if source else None
    emptied = reduced = 0
    listed = False
    if file.suffix != ".parquet":
        table = read_csv(existing(file, what="file"))
        cells = {text for name in table.columns if name != "Id" for text in table[name].drop_nulls().unique()}
        flags = cells <= {"0", "1", "0.0", "1.0"}
        listed = flags or label_column(table) is not None or "Predicted" in table.columns
    if listed and out.suffix != ".csv":
        raise SettingsError(
            f"{file} contains labels, but --out {out} is not a .csv file.", hint=f"Choose {out.stem}.csv."
        )
    if listed:
        if given is None:
            raise SettingsError(f"{file} does not state its label set.", hint="Add --from LABEL_SET.")
        by = conversion(given, find_label_set(target))
        number, emptied, reduced = convert_label_list(file, by, out)
    else:
        check_predictions_path(out)
        predictions = read_predictions(file, label_set=given)
        by = conversion(predictions.label_set, find_label_set(target))
        predictions = convert_predictions(predictions, by)
        write_predictions(predictions, out)
        number = len(predictions)
    if as_json:
        counts = {"fields": number, "fields_without_labels": emptied, "fields_with_fewer_labels": reduced}
        typer.echo(json.dumps({**counts, **by.to_json()}, indent=2))
        return
    left = f" {counted(emptied, 'field')} lost all labels." if emptied else ""
    left += f" {counted(reduced, 'field')} lost some labels." if reduced else ""
    typer.echo("\n".join([f"{out}: {counted(number, 'field')}.{left}", *by.summary()]))
