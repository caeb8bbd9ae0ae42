"""The commands ``cytoloc reproduce …``: published solutions as one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.choices import Device
from cytoloc.cli.console import as_flags, on_terminal, progress_of_stages, require_nets, terminated_as_interrupted

Competition = Annotated[
    Path | None,
    typer.Option(help="Folder of the competition: train.csv, train/, test/ and sample_submission.csv."),
]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; an unfinished one is continued.")]
External = Annotated[
    Path | None, typer.Option(help="Folder of external Human Protein Atlas images, such as that of `fetch hpa`.")
]
ExternalLabels = Annotated[
    Path | None,
    typer.Option(
        help="Labels of the external images: a CSV file with columns Id,Target. Default: labels.csv in their folder."
    ),
]
TestLabels = Annotated[
    Path | None,
    typer.Option(
        help="True labels of the test fields: a CSV file with columns Id,Target. The tables then have the test"
        " scores. Only simulated competitions have this file."
    ),
]
Scale = Annotated[
    Literal["full", "tiny"],
    typer.Option(help="full, or tiny: the same steps with a small network, images of 32 and 64 px and few epochs."),
]
Strong = Annotated[
    bool, typer.Option("--strong", help="Use cytoloc's own recipe, folds and decisions in place of the ten models.")
]
BaselineSplit = Annotated[
    bool,
    typer.Option(
        "--baseline-split",
        help="Split fields at random, as the original solution did, although near-duplicates then leak.",
    ),
]
HeldOutFold = Annotated[
    str | None, typer.Option(help="Validation fold: its number, or all. Default: 0; with --strong, all.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Change a key of all recipes: section.key=value. Can be repeated.")
]
DeviceOption = Annotated[Device, typer.Option(help="Device to train and predict on. auto: the fastest one available.")]
Tflops = Annotated[
    float, typer.Option(help="Assumed speed of the GPU for the estimate of hours, in 10^12 operations per second.")
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Print every step with expected GPU hours and disk space, and stop.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    reproducing = typer.Typer(
        help="Reproduce a published solution, from image files to submissions.\n\nExample: `cytoloc reproduce"
        " kaggle2018 --data competition/ --external v18/ --out reproduction/`",
        no_args_is_help=True,
    )
    reproducing.command("kaggle2018")(terminated_as_interrupted()(kaggle2018))
    app.add_typer(reproducing, name="reproduce")


def kaggle2018(
    data: Competition = None,
    out: Out = None,
    external: External = None,
    external_labels: ExternalLabels = None,
    test_labels: TestLabels = None,
    scale: Scale = "full",
    strong: Strong = False,
    baseline_split: BaselineSplit = False,
    fold: HeldOutFold = None,
    settings: Settings = None,
    device: DeviceOption = "auto",
    tflops: Tflops = 10.0,
    plan: PlanOnly = False,
) -> None:
    """Reproduce the silver-medal solution of the 2018 Kaggle competition, and write submissions to upload.

    The steps: import the images at two sizes, find near-duplicates, make folds, train ten models, average three of
    them, repair predictions with no location or too many, and use the labels of leaked test fields. Every step is
    resumable: rerun the command to continue.

    Example: `cytoloc reproduce kaggle2018 --data competition/ --external v18/ --out reproduction/`

    Example: `cytoloc reproduce kaggle2018 --plan`
    """
    require_nets()

    from tqdm import tqdm

    from cytoloc.reproduce.kaggle2018 import plan_kaggle2018, reproduce_kaggle2018
    from cytoloc.reproduce.options import ReproduceOptions
    from cytoloc.reproduce.steps import plan_table

    if fold is not None and fold != "all" and not fold.isdecimal():
        raise typer.BadParameter(f"{fold!r} is neither a number nor 'all'.", param_hint="'--fold'")
    with progress_of_stages() as advance:
        options = ReproduceOptions(
            external=external,
            external_labels=external_labels,
            test_labels=test_labels,
            scale=scale,
            strong=strong,
            baseline_split=baseline_split,
            fold=int(fold) if fold is not None and fold != "all" else "all" if fold else None,
            overrides=settings or [],
            device=device,
            tflops=tflops,
            report=lambda line: (tqdm.write if on_terminal() else typer.echo)(as_flags(line)),
            progress=advance,
            progress_bar=on_terminal(),
        )
        if plan:
            typer.echo(plan_table(plan_kaggle2018(data, out=out or "reproduction", options=options)))
            typer.echo(
                f"GPU hours assume {tflops:g} x 10^12 operations per second; set --tflops for your device."
                + (" Numbers of fields are those of the 2018 competition, without external images." if not data else "")
            )
            return
        if data is None or out is None:
            raise typer.BadParameter("Give --data and --out; only --plan works without them.")
        reproduce_kaggle2018(data, out=out, options=options)
    typer.echo("\n" + (out / "tables.md").read_text(encoding="utf-8"))
    typer.echo(f"Open {out / 'tables.md'} for these tables. Upload {out / 'submissions' / 'final.csv'} to Kaggle.")
