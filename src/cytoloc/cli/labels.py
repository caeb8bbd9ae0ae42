"""The commands ``cytoloc labels …``: label sets, their locations, and conversion between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cytoloc.cli.console import counted
from cytoloc.labels.label_set import SHIPPED, find_label_set

JsonSwitch = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _Group(TyperGroup):
    """Takes ``cytoloc labels NAME`` for ``cytoloc labels show NAME``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first argument names, or ``show``."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    labels = typer.Typer(cls=_Group, invoke_without_command=True)
    labels.callback()(shipped)
    labels.command()(show)
    labels.command()(convert)
    app.add_typer(labels, name="labels")


def shipped(context: typer.Context, *, as_json: JsonSwitch = False) -> None:
    """List the label sets that come with cytoloc, show the locations of one, or convert files between two.

    Example: `cytoloc labels`

    Example: `cytoloc labels hpa19`, which is short for `cytoloc labels show hpa19`

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
    name: Annotated[str, typer.Argument(help="A shipped label set, or a .csv or .toml file.", metavar="NAME|FILE")],
    *,
    as_json: JsonSwitch = False,
) -> None:
    """Show the locations of a label set: key, name and Gene Ontology id.

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
        typer.Argument(help="Labels or locations (.csv), or predictions (.parquet, or .csv with one column each)."),
    ],
    target: Annotated[str, typer.Option("--to", help="Label set to convert to.")],
    out: Annotated[Path, typer.Option(help="The new file: .csv for labels, .parquet for predictions.")],
    source: Annotated[
        str | None, typer.Option("--from", help="Label set of the file; a .parquet file of predictions states its own.")
    ] = None,
    *,
    as_json: JsonSwitch = False,
) -> None:
    """Convert labels or predictions from one label set to another, and say what is merged, lost or ambiguous.

    Labels of merged locations are joined; a field that loses all its labels is left out, or blank in a submission
    (`Id,Predicted`). Of predictions, a location that several become gets the highest of their probabilities, and one
    that can never occur gets 0.

    A CSV with a column of labels, or with only 0 and 1 in its columns, lists labels; another one holds predictions.

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
        raise SettingsError(f"{file} lists labels, which are written as CSV.", hint=f"Choose {out.stem}.csv.")
    if listed:
        if given is None:
            raise SettingsError(f"{file} does not state its label set.", hint="Name it: --from LABEL_SET.")
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
