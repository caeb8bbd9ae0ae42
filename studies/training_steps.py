"""Where the time of a training step goes, by processor time: `python studies/training_steps.py --size 128 --rounds 3`.

The ways of `cytoloc bench train` that are loops, then two that are in no default: memory that glibc keeps instead of
giving it back to the system (Linux alone), and bfloat16. Processor time of all threads, which other work on the machine
disturbs less than the clock. Needs the extras `nets` and `bench`.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from cytoloc.bench.fastai import FastaiSteps
from cytoloc.bench.train import PlainSteps, bench_recipe
from cytoloc.predict.runs import build_recipe_network
from cytoloc.train.unpacking import location_loss

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4
"""As in glibc's malloc.h."""
KIB = 1024


def keep_memory(*, kept: bool) -> None:
    """Let glibc keep freed memory, or set it back to its defaults."""
    libc = ctypes.CDLL("libc.so.6")
    settings = (
        {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 256 * KIB**2}
        if kept
        else {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 * KIB, M_TOP_PAD: 128 * KIB, M_MMAP_THRESHOLD: 128 * KIB}
    )
    for key, value in settings.items():
        libc.mallopt(key, value)
    if not kept:
        libc.malloc_trim(0)


def processor_seconds(take: Callable[[int], object], *, steps: int, kept: bool = False) -> float:
    """Return the processor time of a step, after one that does not count."""
    keep_memory(kept=kept)
    take(1)
    started = time.process_time()
    take(steps)
    seconds = (time.process_time() - started) / steps
    keep_memory(kept=False)
    return seconds


def in_bfloat16(take: Callable[[int], object]) -> Callable[[int], object]:
    """Return the same steps with mixed precision."""

    def mixed(steps: int) -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return take(steps)

    return mixed


def main() -> None:
    """Measure, and print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    recipe = bench_recipe("resnet34", size=given.size, batch=given.batch)
    torch.manual_seed(0)
    network = build_recipe_network(recipe, weights="none")
    batch = {
        "pixels": torch.randn(given.batch, 4, given.size, given.size),
        "targets": (torch.rand(given.batch, 28) < 0.1).float(),
    }
    fastai = FastaiSteps("resnet34", network, **batch, loss=location_loss(recipe.loss), device="cpu")
    fused = PlainSteps(network, recipe, **batch, channels_last=True, fused=True)
    ways: dict[str, tuple[Callable[[int], object], bool]] = {
        "fastai": (fastai, False),
        "PyTorch": (PlainSteps(network, recipe, **batch), False),
        "channels-last": (PlainSteps(network, recipe, **batch, channels_last=True), False),
        "channels-last, fused AdamW": (fused, False),
        "the same, memory kept": (fused, True),
        "fastai, memory kept": (fastai, True),
        "channels-last, fused AdamW, bfloat16": (in_bfloat16(fused), False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, (take, kept) in ways.items():
            seconds[name].append(processor_seconds(take, steps=given.steps, kept=kept))
    print(f"{torch.get_num_threads()} threads, {given.size} px: processor seconds a step, and the ratio to fastai")
    for name, values in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds["fastai"], values, strict=True)]
        print(f"{name:<38} {median(values):6.3f}  {median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        fused(given.steps)
    parts = profiled.key_averages()
    total = sum(part.self_cpu_time_total for part in parts)
    convolutions = sum(part.self_cpu_time_total for part in parts if "convolution" in part.key)
    print(f"convolutions are {convolutions / total:.0%} of a step of channels-last, fused AdamW")


if __name__ == "__main__":
    main()
