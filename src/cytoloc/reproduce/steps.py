"""Steps of a reproduction: what each makes, whether it is done, and what it is expected to cost."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from cytoloc.errors import StorageError
from cytoloc.models.backbones import create_backbone
from cytoloc.recipes.recipe import Recipe

COMPRESSION: Final = 0.6
"""Size of a dataset by the size of its raw pixels. Measured: 0.53 for 74 training fields of the competition at 512 px,
0.61 for 420 simulated fields at 128 px."""

TRAINING_FLOPS: Final = 3
"""Operations of a training step by those of a prediction: one forward pass, and a backward pass of twice its cost."""

CHECKPOINT_COPIES: Final = 3
"""Tensors that a checkpoint keeps for each weight: the weight, and two averages of AdamW."""

COUNTED_PX: Final = 128
"""Operations are counted on an image of this edge, and scaled by the area."""

RESERVE: Final = 1.1
"""Free disk space that is asked for, by the space that all remaining steps are expected to take."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of a reproduction.

    Attributes:
        name: What it does, as a phrase in the imperative.
        output: The file or folder that it makes.
        run: Does it, or continues it.
        done: Returns whether it is done.
        gpu_hours: Expected time on a GPU, in hours.
        disk_bytes: Expected size of the output.
    """

    name: str
    output: Path
    run: Callable[[], None]
    done: Callable[[], bool]
    gpu_hours: float = 0.0
    disk_bytes: int = 0


def run_steps(steps: Sequence[Step], *, report: Callable[[str], None]) -> None:
    """Do all steps that are not done, in order.

    Raises:
        StorageError: If there is less free disk space than the remaining steps are expected to take.
    """
    open_steps = [step for step in steps if not step.done()]
    refuse_full_disk(open_steps, folder=steps[-1].output.parent)
    for number, step in enumerate(steps, start=1):
        heading = f"[{number}/{len(steps)}] {step.name}"
        if step.done():
            report(f"{heading}: done already")
            continue
        report(heading)
        step.run()


def refuse_full_disk(steps: Sequence[Step], *, folder: Path) -> None:
    """Raise StorageError if the disk of a folder has less free space than these steps are expected to take."""
    # What a stopped step has written already takes no further space.
    wanted = RESERVE * sum(max(0, step.disk_bytes - written_bytes(step.output)) for step in steps)
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise StorageError(
            f"{folder} needs about {gigabytes(wanted)} of disk space for the remaining steps, and {gigabytes(free)} are"
            " free.",
            hint="Free some space, or choose an output on a larger disk.",
        )


def written_bytes(path: Path) -> int:
    """Return the size of all files in a folder; 0 if it does not exist."""
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def plan_table(steps: Sequence[Step]) -> str:
    """Return the steps as a text table with their expected cost, and a line of totals."""
    width = max(len(step.name) for step in steps)
    lines = [f"{'step':>4}  {'what':<{width}}  {'GPU hours':>9}  {'disk':>8}"]
    for number, step in enumerate(steps, start=1):
        disk = gigabytes(step.disk_bytes) if step.disk_bytes else "-"
        lines.append(
            f"{number:>4}  {step.name:<{width}}  {_hours(step.gpu_hours):>9}  {disk:>8}"
            + ("  done" if step.done() else "")
        )
    total_hours, total_bytes = sum(step.gpu_hours for step in steps), sum(step.disk_bytes for step in steps)
    lines.append(f"{'':>4}  {'all steps':<{width}}  {_hours(total_hours):>9}  {gigabytes(total_bytes):>8}")
    return "\n".join(lines)


def _hours(hours: float) -> str:
    """Return hours for people."""
    if not hours:
        return "-"
    return "<0.01" if hours < 0.01 else f"{hours:.2f}"


def gigabytes(size_bytes: float) -> str:
    """Return a size for people.

    >>> gigabytes(2_340_000_000), gigabytes(12_000_000)
    ('2.3 GB', '12 MB')
    """
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{math.ceil(size_bytes / 1e6)} MB"


def dataset_bytes(fields: int, size_px: int) -> int:
    """Return the expected size of a dataset of fields with four channels."""
    return round(fields * 4 * size_px**2 * COMPRESSION)


def training_hours(recipe: Recipe, *, trained_on: int, held_out: int, tflops: float) -> float:
    """Return the expected GPU hours of one run of a recipe.

    Args:
        recipe: The recipe.
        trained_on: Number of fields in the training folds.
        held_out: Number of held-out fields, which are predicted after each epoch.
        tflops: Operations that the GPU does per second, in 10^12.
    """
    schedule = recipe.schedule
    epochs = schedule.frozen_epochs + schedule.epochs * len(schedule.cycles)
    images = epochs * (TRAINING_FLOPS * trained_on + held_out) + recipe.select.tta * held_out
    return images * forward_flops(recipe.model.backbone, recipe.image.size) / (tflops * 1e12) / 3600


def prediction_hours(recipe: Recipe, *, fields: int, tflops: float) -> float:
    """Return the expected GPU hours of predicting fields with one network."""
    flops = forward_flops(recipe.model.backbone, recipe.image.field_px)
    return recipe.select.tta * fields * flops / (tflops * 1e12) / 3600


def run_bytes(recipe: Recipe) -> int:
    """Return the expected size of the folder of a run: its checkpoints."""
    cycles = len(recipe.schedule.cycles)
    checkpoints = 2 + (cycles if cycles > 1 else 0)
    return checkpoints * CHECKPOINT_COPIES * 4 * parameters(recipe.model.backbone)


@cache
def forward_flops(backbone: str, size_px: int) -> float:
    """Return the operations of one prediction of one image by a backbone: two for each multiplication and addition.

    They are counted by torch on tensors without data.
    """
    with torch.device("meta"), torch.no_grad():
        network = create_backbone(backbone, in_channels=4).eval()
        counter = FlopCounterMode(display=False)
        with counter:
            network(torch.empty(1, 4, COUNTED_PX, COUNTED_PX))
    return float(counter.get_total_flops()) * (size_px / COUNTED_PX) ** 2


@cache
def parameters(backbone: str) -> int:
    """Return the number of parameters of a timm network without its classifier."""
    with torch.device("meta"):
        network = timm.create_model(backbone, pretrained=False, num_classes=0)
    return sum(each.numel() for each in network.parameters())
