"""Measure how much faster training steps are if the process keeps freed memory, as in `cytoloc train`.

    OMP_NUM_THREADS=2 python research/kept_memory.py --size 128 [--rounds 5]

Two processes take turns with the same steps: resnet34, batches of 16, channels last, fused AdamW. One of them called
:func:`cytoloc.memory.keep_freed_memory`. The output is the median time per step of each.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

import torch

from benchmarks.train import PlainSteps, bench_recipe
from cytoloc.labels.label_set import LabelSet
from cytoloc.memory import keep_freed_memory
from cytoloc.models.network import build_network
from cytoloc.predict.runs import model_spec

STEPS = 4
steps: PlainSteps


def begin(kept: bool, size: int) -> None:  # noqa: FBT001  an initializer is given no keywords
    """Create the network in this process."""
    global steps
    if kept and not keep_freed_memory():
        raise SystemExit("keep_freed_memory supports only glibc.")
    recipe = bench_recipe("resnet34", size=size, batch=16)
    torch.manual_seed(0)
    network = build_network(model_spec(recipe, locations=len(LabelSet.hpa28())))
    batch = {"pixels": torch.randn(16, 4, size, size), "targets": (torch.rand(16, 28) < 0.1).float()}
    steps = PlainSteps(network, recipe, **batch, channels_last=True, fused=True)


def take() -> float:
    """Return the time of a step in seconds."""
    started = time.perf_counter()
    steps(STEPS)
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    """Time both processes in interleaved rounds, and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge length of images in pixels (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    given = parser.parse_args()
    spawn = get_context("spawn")
    ways = {
        name: ProcessPoolExecutor(1, mp_context=spawn, initializer=begin, initargs=(name == "kept", given.size))
        for name in ("returned", "kept")
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds + 1):
        for name, process in ways.items():
            seconds[name].append(process.submit(take).result())
    # The first round is a warm-up.
    ratio = median(one / other for one, other in zip(seconds["returned"][1:], seconds["kept"][1:], strict=True))
    for name, values in seconds.items():
        print(f"{name:<12} {median(values[1:]):.3f} s per step")
    print(f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
