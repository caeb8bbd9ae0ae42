"""The command that draws cells: simulate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cytoloc.choices import Noise
from cytoloc.cli.console import counted, progress

Form = Annotated[
    Literal["dataset", "kaggle", "hpa", "study", "competition"],
    typer.Option(
        "--format",
        help="dataset; kaggle: the competition's PNG files, labels.csv and pairs.csv; hpa: JPEG files as the Human"
        " Protein Atlas's, each stain in its color; study: datasets for training,"
        " test and external labels, with a list of their flaws; competition: a study as the files of the 2018 Kaggle"
        " competition.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("simulate")(simulate)


def simulate(
    fields: Annotated[int | None, typer.Option(help="How many fields of view; of a study, for training.")] = None,
    out: Annotated[Path | None, typer.Option(help="The new dataset, or folder.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same fields.")] = 0,
    size: Annotated[int, typer.Option(help="Edge of the images, in pixels.")] = 512,
    original: Annotated[
        int | None,
        typer.Option(
            help="Edge of the photographs, in pixels; datasets hold them scaled to --size, image files as they are."
        ),
    ] = None,
    form: Form = "dataset",
    bits: Annotated[Literal["8", "16"], typer.Option(help="Bits per pixel, for --format kaggle.")] = "8",
    evenness: Annotated[
        float, typer.Option(help="0: locations as frequent as in reality; 1: rare ones about as frequent as others.")
    ] = 0.0,
    frequencies: Annotated[
        Path | None, typer.Option(help="CSV Target,share of label sets, in place of the real training set's.")
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option(help="Share of near-duplicates; by default 0, and 0.04 of the training fields of a study."),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Share of training fields of a study with a wrong label; by default 0.03.")
    ] = None,
    noise_kind: Annotated[
        Noise | None,
        typer.Option(help="Kind of wrong labels of a study; by default swapped. Fields with one label never miss it."),
    ] = None,
    leaked: Annotated[
        float | None,
        typer.Option(help="Share of test fields of a study that are in its external set; by default 0.02."),
    ] = None,
    gain: Annotated[
        float | None, typer.Option(help="Relative brightness of the test set of a study; by default 0.8.")
    ] = None,
    show: Annotated[
        Path | None, typer.Option(help="Draw a PNG with a field of each location, instead of --out.")
    ] = None,
) -> None:
    """Draw fields of simulated cells, with wells and rare locations as in reality.

    Drawing is resumable: rerun the command to continue.

    Example: `cytoloc simulate --fields 200 --seed 1 --size 256 --out practice.dataset`
    """
    from cytoloc.parallel import processes
    from cytoloc.simulate import competition, files, study
    from cytoloc.simulate.plan import Design, read_frequencies

    if show is not None:
        others = (fields, out, original, frequencies, duplicates, noise, noise_kind, leaked, gain)
        if any(value is not None for value in others) or bits != "8" or form != "dataset" or evenness:
            raise typer.BadParameter("--show draws a sheet and nothing else: give it alone, or with --seed and --size.")
        _draw_sheet(show, seed=seed, size=size)
        return
    if fields is None or out is None:
        raise typer.BadParameter("Give --fields and --out, or --show.")
    given: dict[str, Any] = {"noise": noise, "kind": noise_kind, "leaked": leaked, "gain": gain}
    flaws = {name: value for name, value in given.items() if value is not None}
    is_study = form in ("study", "competition")
    if flaws and not is_study:
        raise typer.BadParameter("--noise, --noise-kind, --leaked and --gain are for --format study or competition.")
    if bits != "8" and form != "kaggle":
        raise typer.BadParameter("--bits is for --format kaggle.")
    sets = read_frequencies(frequencies) if frequencies else None
    # A study's near-duplicates are one of its flaws, and only its training set has them.
    twice = 0.0 if is_study else duplicates or 0.0
    common: dict[str, Any] = {"evenness": evenness, "label_sets": sets, "duplicates": twice, "original_px": original}
    design = Design(n_fields=fields, seed=seed, size=size, **common)
    if is_study and duplicates is not None:
        flaws["duplicates"] = duplicates
    with progress("drawing") as advance, processes() as pool:
        if form == "competition":
            competition.simulate_competition(out, design, study.Flaws(**flaws), pool=pool, progress=advance)
        elif form == "study":
            study.simulate_study(out, design, study.Flaws(**flaws), pool=pool, progress=advance)
        elif form == "kaggle":
            files.simulate_kaggle(out, design, bits=8 if bits == "8" else 16, pool=pool, progress=advance)
        elif form == "hpa":
            files.simulate_hpa(out, design, pool=pool, progress=advance)
        else:
            study.simulate_dataset(out, design, pool=pool, progress=advance)
    beside = ", and as many external ones, and a test set" if is_study else ""
    edge = (original or size) if form in ("kaggle", "hpa") else size
    typer.echo(f"{out}: {counted(fields, 'simulated field')} of {edge} px{beside}.")


def _draw_sheet(path: Path, *, seed: int, size: int) -> None:
    from functools import partial

    import numpy as np

    from cytoloc.channels import CHANNELS
    from cytoloc.files import check_outputs
    from cytoloc.labels.label_set import LabelSet
    from cytoloc.parallel import in_order, processes
    from cytoloc.report.figures import field_grid
    from cytoloc.simulate.field import draw_field
    from cytoloc.simulate.plan import plan_one

    check_outputs(images=[path])
    label_set = LabelSet.hpa28()
    locations = range(len(label_set))
    plans = [plan_one(location, seed=seed, size=size) for location in locations]
    images = []
    with progress("drawing") as advance, processes() as pool:
        for image in in_order(partial(draw_field, size=size), plans, pool=pool):
            images.append(image)
            advance(len(images), len(plans))
    names = [f"simulated, seed {seed}"] * len(images)
    truth = [(location,) for location in locations]
    field_grid(np.stack(images), names, truth, None, path, channels=CHANNELS, label_set=label_set)
    typer.echo(f"{path}: a field of each of {len(images)} locations.")
