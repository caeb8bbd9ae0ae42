"""The command ``cytoloc simulate``."""

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
        help="Output format. dataset: a dataset. kaggle: PNG files as in the 2018 Kaggle competition, labels.csv and"
        " pairs.csv. hpa: JPEG files as on the Human Protein Atlas site. study: datasets for training and test, one"
        " with external labels, and a list of their flaws. competition: a study as the files of the 2018 Kaggle"
        " competition, with external images.",
    ),
]
FieldCount = Annotated[
    int | None,
    typer.Option(help="Number of fields of view. For --format study or competition: number of training fields."),
]
Out = Annotated[Path | None, typer.Option(help="New dataset, or new folder for other formats.")]
Original = Annotated[
    int | None,
    typer.Option(
        help="Edge length of the raw images, in pixels. Datasets scale them to --size; image files keep this size."
        " Default: --size."
    ),
]
Bits = Annotated[Literal["8", "16"], typer.Option(help="Bits per pixel of the PNG files. Only for --format kaggle.")]
Evenness = Annotated[
    float,
    typer.Option(
        help="Class balance, 0 to 1. 0: locations are as frequent as in reality. 1: rare locations are about as"
        " frequent as others."
    ),
]
Frequencies = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with columns Target,share: how frequent each combination of locations is. Default: as in the"
        " 2018 Kaggle training set."
    ),
]
Duplicates = Annotated[
    float | None,
    typer.Option(
        help="Share of fields that are near-duplicates, 0 to 1. Default: 0, or 0.04 of the training fields of a study."
    ),
]
LabelNoise = Annotated[
    float | None,
    typer.Option(
        help="Share of training fields with a wrong label, 0 to 1. Only for --format study or"
        " competition. Default: 0.03."
    ),
]
NoiseKind = Annotated[
    Noise | None,
    typer.Option(
        help="Kind of wrong labels. Only for --format study or competition. missing never affects fields with one"
        " label. Default: swapped."
    ),
]
Leaked = Annotated[
    float | None,
    typer.Option(
        help="Share of test fields that are also in the external dataset, 0 to 1. Only for --format study or"
        " competition. Default: 0.02."
    ),
]
Gain = Annotated[
    float | None,
    typer.Option(
        help="Brightness of the test images relative to the training images. Only for --format study or"
        " competition. Default: 0.8."
    ),
]
Show = Annotated[
    Path | None,
    typer.Option(help="Write a .png, .svg or .pdf file with one field of each location, instead of --out."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("simulate")(simulate)


def simulate(
    fields: FieldCount = None,
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Random seed. The same seed gives the same fields.")] = 0,
    size: Annotated[int, typer.Option(help="Edge length of the images, in pixels.")] = 512,
    original: Original = None,
    form: Form = "dataset",
    bits: Bits = "8",
    evenness: Evenness = 0.0,
    frequencies: Frequencies = None,
    duplicates: Duplicates = None,
    noise: LabelNoise = None,
    noise_kind: NoiseKind = None,
    leaked: Leaked = None,
    gain: Gain = None,
    show: Show = None,
) -> None:
    """Simulate fields of view of cells, with labels, wells and rare locations as in real data.

    Simulations are resumable: rerun the command and it continues.

    Example: `cytoloc simulate --fields 200 --seed 1 --size 256 --out practice.dataset`
    """
    from contextlib import nullcontext

    from cytoloc.parallel import processes
    from cytoloc.simulate import competition, files, study
    from cytoloc.simulate.plan import Design, read_frequencies

    if show is not None:
        others = (fields, out, original, frequencies, duplicates, noise, noise_kind, leaked, gain)
        if any(value is not None for value in others) or bits != "8" or form != "dataset" or evenness:
            raise typer.BadParameter("--show can only be combined with --seed and --size. Remove the other options.")
        _draw_sheet(show, seed=seed, size=size)
        return
    if fields is None or out is None:
        raise typer.BadParameter("Give --fields and --out, or --show.")
    given: dict[str, Any] = {"noise": noise, "kind": noise_kind, "leaked": leaked, "gain": gain}
    flaws = {name: value for name, value in given.items() if value is not None}
    is_study = form in ("study", "competition")
    if flaws and not is_study:
        raise typer.BadParameter("--noise, --noise-kind, --leaked and --gain require --format study or competition.")
    if bits != "8" and form != "kaggle":
        raise typer.BadParameter("--bits 16 requires --format kaggle.")
    sets = read_frequencies(frequencies) if frequencies else None
    # In a study only the training set has near-duplicates, so they are part of its flaws.
    twice = 0.0 if is_study else duplicates or 0.0
    common: dict[str, Any] = {"evenness": evenness, "label_sets": sets, "duplicates": twice, "original_px": original}
    design = Design(n_fields=fields, seed=seed, size=size, **common)
    if is_study and duplicates is not None:
        flaws["duplicates"] = duplicates
    # Processes take a second to start; threads draw few fields faster.
    with progress("Simulating fields") as advance, processes() if fields > 100 else nullcontext() as pool:
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

    from cytoloc.channels import CHANNELS
    from cytoloc.files import check_outputs
    from cytoloc.labels.label_set import LabelSet
    from cytoloc.parallel import in_order
    from cytoloc.report.figures import SheetField, draw_sheet
    from cytoloc.simulate.field import draw_field
    from cytoloc.simulate.plan import plan_one

    check_outputs(images=[path])
    label_set = LabelSet.hpa28()
    locations = range(len(label_set))
    plans = [plan_one(location, seed=seed, size=size) for location in locations]
    images = []
    with progress("Simulating fields") as advance:
        for image in in_order(partial(draw_field, size=size), plans):
            images.append(image)
            advance(len(images), len(plans))
    fields = [
        SheetField(name=f"simulated, seed {seed}", image=image, truth=(location,))
        for location, image in zip(locations, images, strict=True)
    ]
    draw_sheet(fields, path, channels=CHANNELS, label_set=label_set)
    typer.echo(f"{path}: one field of each of {len(images)} locations.")
