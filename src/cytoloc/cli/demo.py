"""The command demo: the whole workflow on simulated cells, by the same commands that a user would type."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

RESULTS = {
    "contact-sheet.png": "test fields with their predicted and true locations",
    "classes.csv": "the table of classes above, with all 28 classes",
    "runs/finetune-curve.png": "training curves of both networks",
    "submission.csv": "the predicted locations of every test field",
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="A new folder for everything that the demo makes.")] = Path("demo-out"),
    fields: Annotated[
        int, typer.Option(help="Number of simulated fields to train on; a third as many are test fields.", min=30)
    ] = 480,
    epochs: Annotated[int, typer.Option(help="Number of training epochs.", min=1)] = 6,
    seed: Annotated[
        int, typer.Option(help="Random seed of the training fields. The test fields use the next seed.", min=0)
    ] = 1,
) -> None:
    """Run the whole workflow on simulated cells, without data of your own, in about five minutes on two CPU cores.

    The demo draws fields of simulated cells, fine-tunes the built-in model on some of them, and evaluates its
    predictions on others. A demo that was stopped continues when the command is run again.

    Example: `cytoloc demo --out demo-out`
    """
    from cytoloc.cli.app import app
    from cytoloc.cli.console import require_nets
    from cytoloc.errors import OutputExistsError
    from cytoloc.files import FileFormat, read_json, write_json

    require_nets()
    settings = {"fields": fields, "epochs": epochs, "seed": seed}
    demo_format = FileFormat("cytoloc-demo", 1)
    mark = out / "demo.json"
    if not out.exists():
        write_json(mark, settings, demo_format)
    elif not mark.exists() or settings.items() - read_json(mark, demo_format).items():
        raise OutputExistsError(
            f"{out} already exists, and is not from a demo with these settings.",
            hint="Nothing was changed. Remove it, or choose another place: --out DIR, or `make demo DEMO=DIR`.",
        )
    typer.echo("This demo uses simulated cells: its scores say nothing about real images.")
    for line in steps(out, **settings):
        typer.secho(f"\n$ cytoloc {line}", bold=True)
        words = shlex.split(line)
        if is_done(words):
            typer.echo("done already")
            continue
        # A command that was stopped by Ctrl-C comes back with its exit code instead of an exception.
        code = app(words, prog_name="cytoloc", standalone_mode=False)
        if code:
            raise typer.Exit(code)
    typer.echo("\nResults of the demo, on simulated cells:")
    for name, what in RESULTS.items():
        typer.echo(f"  {out / name}  {what}")
    typer.secho(f"\nOpen {out / 'contact-sheet.png'} to see the predictions.", bold=True)


def is_done(words: list[str]) -> bool:
    """Return whether the output of a command is complete, so that a resumed demo skips the command."""
    from cytoloc.dataset.manifest import is_complete

    if words[0] not in {"simulate", "import", "folds", "predict", "decide"}:
        return False
    out = Path(words[words.index("--out") + 1])
    if words[0] == "simulate":
        # A simulation writes its tables last, and then removes the note that it is not finished.
        return (out / "labels.csv").exists() and not (out / "study.part.json").exists()
    return is_complete(out) if words[0] == "import" else out.exists()


def steps(out: Path, *, fields: int, epochs: int, seed: int) -> list[str]:
    """Return the commands of the demo, in order.

    The decision combines the fine-tuned networks with the built-in model, which few fields of rare locations mislead
    less. It is fitted to out-of-fold predictions; the test fields are used once, at the end. Rare locations are more
    frequent than in reality (``--evenness``), so that most of them occur.
    """
    o = shlex.quote(str(out))
    table = "" if (out / "classes.csv").exists() else f" --table {o}/classes.csv"
    return [
        f"simulate --fields {fields} --seed {seed} --size 256 --evenness 0.5 --format kaggle --out {o}/train",
        f"simulate --fields {fields // 3} --seed {seed + 1} --size 256 --evenness 0.5 --format kaggle --out {o}/test",
        f"import kaggle {o}/train --labels {o}/train/labels.csv --size 128 --out {o}/train.dataset",
        f"import kaggle {o}/test --labels {o}/test/labels.csv --size 128 --out {o}/test.dataset",
        f"folds {o}/train.dataset -k 2 --pairs {o}/train/pairs.csv --out {o}/folds.csv",
        f"train finetune {o}/train.dataset --folds {o}/folds.csv --out {o}/runs"
        f" --set schedule.epochs={epochs} --resume",
        f"predict {o}/runs {o}/test.dataset --out {o}/finetuned.parquet",
        f"predict builtin {o}/train.dataset --uncalibrated --out {o}/builtin-train.parquet",
        f"predict builtin {o}/test.dataset --uncalibrated --out {o}/builtin.parquet",
        f"decide fit --member finetuned={o}/runs --member builtin={o}/builtin-train.parquet"
        f" --labels {o}/train.dataset --folds {o}/folds.csv --out {o}/decision.json",
        f"decide apply --member finetuned={o}/finetuned.parquet --member builtin={o}/builtin.parquet"
        f" --decision {o}/decision.json --order {o}/test/labels.csv --out {o}/submission.csv"
        f" --probabilities {o}/probabilities.parquet",
        f"evaluate {o}/submission.csv --labels {o}/test/labels.csv --predictions {o}/probabilities.parquet{table}",
        f"show {o}/test.dataset --predictions {o}/submission.csv --out {o}/contact-sheet.png",
    ]
