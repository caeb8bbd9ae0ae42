"""The command ``python -m benchmarks``."""

from __future__ import annotations

import json
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoloc.cli.console import progress, require_nets
from cytoloc.errors import installing

if TYPE_CHECKING:
    from benchmarks.dataset import DatasetBench
    from benchmarks.decide import DecideBench
    from benchmarks.duplicates import DuplicatesBench
    from benchmarks.inference import InferenceBench
    from benchmarks.rounds import Way
    from benchmarks.train import AtSize, TrainBench

    Measured = DatasetBench | DuplicatesBench | DecideBench | InferenceBench | TrainBench


PACKED_PX = 512
"""Default edge length of images in pixels."""


class Bench(StrEnum):
    """Benchmarks."""

    dataset = "dataset"
    duplicates = "duplicates"
    decide = "decide"
    train = "train"
    inference = "inference"


class Device(StrEnum):
    """Devices for the training benchmark."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def bench(
    names: Annotated[
        list[Bench] | None,
        typer.Argument(help="Benchmarks to run. Default: all, but decide only with --predictions.", metavar="[NAME]…"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="dataset, duplicates: Folder of {Id}_{red,green,blue,yellow}.png. Default: 64 simulated fields."
        ),
    ] = None,
    fields: Annotated[
        int, typer.Option(help="dataset: Number of fields. Images are repeated to this number.", min=64)
    ] = 2000,
    size: Annotated[
        int | None,
        typer.Option(help="Edge length of images in pixels. Default: 512; for train, 128 and then 256.", min=32),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="decide: Folder of labels.csv and one .npz of out-of-fold probabilities per model."),
    ] = None,
    splits: Annotated[int, typer.Option(help="decide: Number of random splits into halves.", min=1)] = 20,
    large: Annotated[
        int, typer.Option(help="decide: Number of fields for timing exact thresholds.", min=1000)
    ] = 1_000_000,
    training_fields: Annotated[
        int, typer.Option(help="decide: Number of fields for timing the method auto. 0: do not time it.", min=0)
    ] = 31_072,
    backbone: Annotated[str, typer.Option(help="train: Name of a convolutional network in timm.")] = "resnet34",
    batch: Annotated[int, typer.Option(help="train: Number of fields per training step.", min=2)] = 16,
    device: Annotated[Device, typer.Option(help="train: Device; auto is a GPU if there is one.")] = Device.auto,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="train: Also time compiled PyTorch, whose first step takes a minute or more."),
    ] = False,
    rounds: Annotated[int, typer.Option(help="Number of rounds; each round times every method once.", min=1)] = 5,
    scratch: Annotated[Path | None, typer.Option(help="Folder for temporary files, which are removed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
) -> None:
    """Compare the speed and quality of cytoloc with common alternatives.

    Every round times each method once, so that changes in the load of the machine affect all methods. Ratios are
    medians over rounds.

    Example: `python -m benchmarks dataset --images kaggle512/ --size 512`

    Example: `python -m benchmarks decide --predictions predictions/`

    Example: `python -m benchmarks train --size 128 --rounds 3`
    """
    from dataclasses import asdict

    from benchmarks.rounds import machine

    wanted = names or [
        Bench.dataset,
        Bench.duplicates,
        Bench.train,
        Bench.inference,
        *([Bench.decide] if predictions else []),
    ]
    results: dict[str, Measured] = {}
    for name in dict.fromkeys(wanted):
        if name == Bench.dataset:
            results["dataset"] = _dataset(images, scratch, fields=fields, size=size or PACKED_PX, rounds=rounds)
        elif name == Bench.duplicates:
            results["duplicates"] = _duplicates(images, scratch, size=size or PACKED_PX, rounds=rounds)
        elif name == Bench.train:
            results["train"] = _train(
                scratch,
                size=size,
                rounds=rounds,
                backbone=backbone,
                batch=batch,
                device=device,
                compiled=compiled,
            )
        elif name == Bench.inference:
            results["inference"] = _inference(size=size, rounds=rounds)
        else:
            results["decide"] = _decide(
                predictions, splits=splits, rounds=rounds, large=large, training_fields=training_fields
            )
    here = machine()
    if as_json:
        typer.echo(json.dumps({"machine": here} | {name: asdict(each) for name, each in results.items()}, indent=2))
        return
    typer.echo(f"{here['cpu']}, {here['cores']} cores; medians of {rounds} interleaved rounds")
    for each in results.values():
        typer.echo("\n".join(_lines(each)))


def _dataset(images: Path | None, scratch: Path | None, *, fields: int, size: int, rounds: int) -> DatasetBench:
    from benchmarks.dataset import bench_dataset
    from cytoloc.simulate.files import simulate_kaggle
    from cytoloc.simulate.plan import Design

    require_nets()
    with tempfile.TemporaryDirectory(dir=scratch) as folder, progress("dataset") as advance:
        if images is None:
            images = Path(folder) / "simulated"
            simulate_kaggle(images, Design(n_fields=64, seed=0, size=size))
        return bench_dataset(
            images,
            Path(folder) / "dataset",
            fields=fields,
            size=size,
            rounds=rounds,
            advance=lambda _what, done, total: advance(done, total),
        )


def _duplicates(images: Path | None, scratch: Path | None, *, size: int, rounds: int) -> DuplicatesBench:
    from benchmarks.duplicates import bench_duplicates
    from cytoloc.simulate.files import simulate_kaggle
    from cytoloc.simulate.plan import Design

    with tempfile.TemporaryDirectory(dir=scratch) as folder, progress("duplicates") as advance:
        if images is None:
            images = Path(folder) / "simulated"
            simulate_kaggle(images, Design(n_fields=64, seed=0, size=size))
        return bench_duplicates(images, rounds=rounds, advance=lambda _what, done, total: advance(done, total))


def _decide(predictions: Path | None, *, splits: int, rounds: int, large: int, training_fields: int) -> DecideBench:
    from benchmarks.decide import bench_decide
    from cytoloc.errors import SettingsError

    if predictions is None:
        raise SettingsError(
            "The benchmark decide needs out-of-fold probabilities of real fields.",
            hint="Give --predictions FOLDER, with labels.csv and one .npz of probabilities per model.",
        )
    with progress("decide") as advance:
        return bench_decide(
            predictions,
            splits=splits,
            rounds=rounds,
            large=large,
            training_fields=training_fields,
            advance=lambda _what, done, total: advance(done, total),
        )


def _inference(*, size: int | None, rounds: int) -> InferenceBench:
    require_nets()
    from benchmarks.inference import SIZES, bench_inference

    with progress("inference") as advance:
        return bench_inference(sizes=(size,) if size else SIZES, rounds=rounds, advance=advance)


def _train(
    scratch: Path | None,
    *,
    size: int | None,
    rounds: int,
    backbone: str,
    batch: int,
    device: str,
    compiled: bool,
) -> TrainBench:
    require_nets()
    from benchmarks.train import HELD_OUT, SIZES, STEPS, bench_train
    from cytoloc.simulate.plan import Design
    from cytoloc.simulate.study import simulate_dataset

    with tempfile.TemporaryDirectory(dir=scratch) as folder, progress("train") as advance:
        datasets = [Path(folder) / f"{edge}.dataset" for edge in ((size,) if size else SIZES)]
        for path in datasets:
            simulate_dataset(path, Design(n_fields=STEPS * batch + HELD_OUT, seed=0, size=int(path.stem)))
        return bench_train(
            datasets,
            Path(folder),
            backbone=backbone,
            batch=batch,
            device=device,
            compiled=compiled,
            rounds=rounds,
            advance=lambda _what, done, total: advance(done, total),
        )


def _lines(measured: Measured) -> list[str]:
    from benchmarks.dataset import DatasetBench
    from benchmarks.decide import LOOP_CLASSES
    from benchmarks.duplicates import DuplicatesBench
    from benchmarks.inference import InferenceBench
    from benchmarks.train import TrainBench

    if isinstance(measured, InferenceBench):
        lines = [f"\nbatches of {measured.batch}, {measured.threads} threads, float32 unless int8 is stated"]
        for name, ways in measured.engines.items():
            lines += _table(f"{name}, pixels in memory", ways)
            lines += _table(f"{name}, whole prediction", measured.whole[name])
        return [*lines, f"\nfrom import to the first prediction: {measured.first_s:.1f} s (median of 3 processes)"]
    if isinstance(measured, TrainBench):
        return _train_lines(measured)
    if isinstance(measured, DatasetBench):
        return [
            f"\n{measured.fields} fields of {measured.size} px",
            *_table("random batches of 32, uint8", measured.uint8),
            *_table("random batches of 32, float32", measured.float32),
            *_table("import", measured.importing),
            *_table("import of a plate, 16-bit LZW TIFF", measured.plate),
            f"\ndataset: {measured.disk:.1%} of the size of raw pixels (image files: {measured.files:.1%});"
            f" peak memory of an import: {measured.import_mb:.0f} MB",
        ]
    if isinstance(measured, DuplicatesBench):
        near = f"{measured.close:.1%} within 2 bits of ImageHash"
        return [
            f"\n{measured.fields} fields; hashes of {measured.channels} channels: {near}",
            *_table("hashing, four channels a field", measured.hashing),
            *_table("searching, three channels", measured.searching, unit="pairs/s"),
            f"\n11,702 x 74,606 fields in {measured.search_s:.2f} s and {measured.search_mb:.0f} MB;"
            f" {measured.found:.1%} of simulated copies found",
        ]
    lines = [
        f"\n{measured.members} members, {measured.fields} fields, {measured.splits} splits into halves, both ways",
        f"\n{'macro F1 on the other half':<48} {'mean':>6} {'gain':>7} {'min':>7} {'wins':>6}",
    ]
    lines += [
        f"  {each.name:<46} {each.macro_f1:>6.4f} {each.gain:>+7.4f} {each.least:>+7.4f} {each.wins:>6.1%}"
        for each in measured.halves
    ]
    lines += _table("per-class grid, all classes", measured.grid, unit="sets/s")
    lines.append(
        f"  the loop was timed on {LOOP_CLASSES} classes and scaled to all; F1 of both methods is"
        f" {'equal, and the best on the grid' if measured.same_f1 else 'DIFFERENT'}"
    )
    lines.append(f"\nexact thresholds: {measured.exact_s:.2f} s, peak {measured.exact_mb:.0f} MB")
    if measured.auto_s is not None:
        lines.append(f"method auto on as many fields as the training set: {measured.auto_s:.0f} s")
    return lines


def _train_lines(measured: TrainBench) -> list[str]:
    lines = [f"\n{measured.backbone}, batches of {measured.batch}, {measured.device}, {measured.threads} threads"]
    if measured.missing:
        lines.append(f"fastai is not installed and was not timed. To install it: {installing('bench')}")
    for one in measured.sizes:
        lines += _table(f"training steps, {one.size} px", one.steps, unit="images/s")
        lines += [f"  {line}" for line in _beside(one)]
    return lines


def _beside(one: AtSize) -> list[str]:
    """Return lines with further results of cytoloc's training."""
    best, half, memory = one.ours_to_best, one.half_to_half, one.ours_to_memory
    first = next(iter(one.first_loss.values()))
    peaks = ", ".join(f"{name} {peak:,.0f} MB" for name, peak in one.peak_mb.items())
    return [
        f"from a dataset / {one.best_plain}: {best.ratio:.2f}x ({best.least:.2f} to {best.most:.2f})",
        f"both in bfloat16: {half.ratio:.2f}x ({half.least:.2f} to {half.most:.2f})",
        f"from a dataset / pixels in memory: {memory.ratio:.2f}x ({memory.least:.2f} to {memory.most:.2f}),"
        f" {one.waited:.1%} of the time spent waiting for pixels",
        f"loss of the first step, all methods: {first:.4f}"
        if one.same_loss
        else f"FIRST LOSSES DIFFER: {one.first_loss}",
        f"peak memory: {peaks}",
    ]


def _table(title: str, ways: list[Way], *, unit: str = "fields/s") -> list[str]:
    lines = [f"\n{title:<40} {unit:>14} {'ratio':>9}  min to max"]
    for way in ways:
        rate = f"{way.rate:,.0f}" if way.rate >= 10 else f"{way.rate:.3g}"
        lines.append(f"  {way.name:<38} {rate:>14} {way.ratio:>8,.2f}x  {way.least:,.2f} to {way.most:,.2f}")
    return lines


def main() -> None:
    """Run the program."""
    from cytoloc.cli.app import run

    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(bench)
    run(program, name="python -m benchmarks")


if __name__ == "__main__":
    main()
