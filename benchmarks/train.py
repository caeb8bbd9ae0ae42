"""Training steps against those of fastai and plain PyTorch: the same network, loss, batch and kind of optimizer.

Nothing is drawn by chance in a step: no dropout, no augmentation. So every way's first loss is the same number, which
is checked; if it were not, they would not do the same work. fastai and PyTorch are given one batch, normalized and as
floats, again and again; cytoloc reads its batches as uint8 and normalizes them in its network, in a whole run of its
own (:func:`cytoloc.training.run.train`), of which the second epoch's steps count. That is in another process,
which treats its memory as the command does; the others are left as they are.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import polars as pl
import tensorstore
import torch
from torch import Tensor, nn

from benchmarks.fastai import FastaiSteps
from benchmarks.rounds import Rates, Timed, Way, compared, in_separate_process, peak_mb, rates_in_turns
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import SettingsError
from cytoloc.memory import keep_freed_memory
from cytoloc.models.network import Network, build_network
from cytoloc.parallel import end_with_parent
from cytoloc.predict.runs import model_spec
from cytoloc.recipes.recipe import Recipe, load_recipe
from cytoloc.training.options import TrainOptions
from cytoloc.training.resolve import location_loss, resolve_recipe
from cytoloc.training.run import train

FASTAI: Final = "fastai 2.8, vision_learner"
EAGER: Final = "PyTorch"
CHANNELS_LAST: Final = "PyTorch, channels-last"
FUSED: Final = "PyTorch, channels-last, fused AdamW"
PLAIN_HALF: Final = "PyTorch, channels-last, fused, bfloat16"
COMPILED: Final = "PyTorch, compiled"
COMPILED_FUSED: Final = "PyTorch, compiled, channels-last, fused"
MEMORY: Final = "cytoloc, pixels in memory"
OURS: Final = "cytoloc, from a dataset"
HALF: Final = "cytoloc, from a dataset, bfloat16"
COMMAND: Final = (MEMORY, OURS, HALF)
"""What the command `cytoloc train` does."""

IN_HALF: Final = frozenset({PLAIN_HALF, HALF})
"""What computes with 16 bits. fastai has no half precision but on CUDA."""

SIZES: Final = (128, 256)
"""Edges of the images that are measured by default, in pixels."""

STEPS: Final = 4
"""Steps of each measurement."""

HELD_OUT: Final = 2
"""Fields that cytoloc's run holds out; what it does with them is not measured."""

SAME_LOSS: Final = 1e-3
"""How far first losses may be apart, as a share: rounding in another order of the same sums."""

NEARLY: Final = 0.03
"""The same of half precision, whose numbers have three digits."""


class Steps(NamedTuple):
    """Steps that were taken.

    Attributes:
        images: How many images were trained in the time that counts.
        seconds: That time.
        loss: Of the first step; of a whole run its first epoch's, which is the same if that has one step.
        waited: The share of the time for which they waited for pixels.
    """

    images: int
    seconds: float
    loss: float
    waited: float = 0.0


Learn = Callable[[int], Steps]
"""Takes so many steps."""


@dataclass(frozen=True)
class AtSize:
    """What was measured with images of one size.

    Attributes:
        size: Their edge, in pixels.
        steps: Training in images per second, against fastai, or against plain PyTorch where fastai is missing.
        first_loss: The loss of the first step, by way.
        best_plain: The fastest of the ways of plain PyTorch in float32.
        ours_to_best: cytoloc from a dataset, against that one.
        half_to_half: The same, both in bfloat16.
        ours_to_memory: cytoloc from a dataset, against cytoloc with the same pixels in memory.
        waited: Share of the time for which cytoloc waited for pixels of the dataset, median over rounds.
        peak_mb: Peak memory of a process that trains, in megabytes, by way; on a CUDA device, of the device.
    """

    size: int
    steps: list[Way]
    first_loss: dict[str, float]
    best_plain: str
    ours_to_best: Way
    half_to_half: Way
    ours_to_memory: Way
    waited: float
    peak_mb: dict[str, float]

    @property
    def same_loss(self) -> bool:
        """Whether all ways begin with the same loss; nearly, of the ways with half the bits."""
        usual = median(self.first_loss.values())
        return all(
            abs(loss - usual) <= (NEARLY if name in IN_HALF else SAME_LOSS) * usual
            for name, loss in self.first_loss.items()
        )


@dataclass(frozen=True)
class TrainBench:
    """What was measured.

    Attributes:
        device: What it ran on.
        threads: Threads of PyTorch on the CPU.
        backbone: timm's name of the network.
        batch: Fields a step.
        missing: Peers that are not installed.
        sizes: The measurements.
    """

    device: str
    threads: int
    backbone: str
    batch: int
    missing: list[str]
    sizes: list[AtSize]


def bench_train(
    datasets: list[Path],
    workshop: Path,
    *,
    backbone: str = "resnet34",
    batch: int = 16,
    device: str = "auto",
    compiled: bool = False,
    rounds: int = 5,
    steps: int = STEPS,
    advance: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> TrainBench:
    """Measure training on each of the datasets.

    Args:
        datasets: Labeled, with the fields of ``steps`` batches and :data:`HELD_OUT` more, each of another size.
        workshop: A folder that runs are made in, and removed from.
        backbone: timm's name of a convolutional network.
        batch: Fields a step.
        device: ``auto`` is what Lightning takes; another must be that one.
        compiled: Whether plain PyTorch is measured with ``torch.compile`` too; its first step takes a minute or more.
        rounds: How often each way is measured.
        steps: Steps of each measurement.
        advance: Told what is measured, and how much of it is done.

    Raises:
        SettingsError: If the device is not what training would run on.
        RecipeError: If there is no such backbone, or it cannot take images of these sizes.
    """
    chosen = _device(device)
    missing = [] if importlib.util.find_spec("fastai") else ["fastai"]
    sizes = []
    for path in datasets:
        dataset = open_dataset(path)
        recipe = bench_recipe(backbone, size=dataset.size, batch=batch)
        names = [
            *([] if missing else [FASTAI]),
            *(EAGER, CHANNELS_LAST, FUSED, PLAIN_HALF),
            *((COMPILED, COMPILED_FUSED) if compiled else ()),
            *COMMAND,
        ]
        sizes.append(
            _at_size(names, dataset, recipe, workshop, device=chosen, rounds=rounds, steps=steps, advance=advance)
        )
    return TrainBench(_device_name(chosen), torch.get_num_threads(), backbone, batch, missing, sizes)


def bench_recipe(backbone: str, *, size: int, batch: int) -> Recipe:
    """Return the silver-medal baseline's loss and head on a backbone at random weights, with nothing left to chance."""
    settings = {
        "image.size": size,
        "model.backbone": backbone,
        "model.weights": "none",
        "model.head": "average-max",
        "model.dropout": 0.0,
        "augment.flips": "false",
        "augment.turns": "false",
        "schedule.batch_size": batch,
        "schedule.frozen_epochs": 0,
        # The second epoch is the one that counts.
        "schedule.epochs": 2,
        "schedule.learning_rate": 1e-3,
        "select.tta": 1,
    }
    return load_recipe("quick", overrides=[f"{key}={value}" for key, value in settings.items()])


def ways(names: list[str], dataset: Dataset, recipe: Recipe, workshop: Path, *, device: str) -> dict[str, Learn]:
    """Return the ways of training by name; all begin with the same weights and learn the same first batch."""
    # As a run begins: see cytoloc.training.run.
    torch.manual_seed(recipe.seed)
    recipe = resolve_recipe(recipe, dataset)
    network = build_network(model_spec(recipe, locations=len(dataset.label_set))).to(device)
    rows = range(recipe.schedule.batch_size)
    pixels = network.normalize(torch.from_numpy(dataset.read(rows)).to(device))
    targets = torch.from_numpy(dataset.truth[: len(rows)]).float().to(device)
    plain = partial(PlainSteps, network, recipe, pixels=pixels, targets=targets)
    makers: dict[str, Callable[[], Learn]] = {
        FASTAI: lambda: _fastai(network, recipe, pixels=pixels, targets=targets, device=device),
        EAGER: plain,
        CHANNELS_LAST: partial(plain, channels_last=True),
        FUSED: partial(plain, channels_last=True, fused=True),
        PLAIN_HALF: partial(plain, channels_last=True, fused=True, half=True),
        COMPILED: partial(plain, compiled=True),
        COMPILED_FUSED: partial(plain, channels_last=True, fused=True, compiled=True),
        MEMORY: lambda: partial(_run, _in_memory(dataset), recipe, workshop),
        OURS: lambda: partial(_run, dataset, recipe, workshop),
        HALF: lambda: partial(_run, dataset, _in_half_precision(recipe), workshop),
    }
    return {name: makers[name]() for name in names}


class PlainSteps:
    """Training as a loop in PyTorch."""

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        *,
        pixels: Tensor,
        targets: Tensor,
        channels_last: bool = False,
        fused: bool = False,
        half: bool = False,
        compiled: bool = False,
    ) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        module: Any = nn.Sequential(copy.deepcopy(network.backbone), copy.deepcopy(network.head))
        module = module.to(memory_format=layout).train()
        self.pixels, self.targets = pixels.contiguous(memory_format=layout), targets
        self.loss = location_loss(recipe.loss)
        self.optimizer = torch.optim.AdamW(
            module.parameters(),
            lr=recipe.schedule.learning_rate,
            weight_decay=recipe.schedule.weight_decay,
            fused=fused or None,
        )
        self.arithmetic = torch.autocast(pixels.device.type, torch.bfloat16, enabled=half)
        # For this shape alone, also when one of another size was compiled before.
        self.module = torch.compile(module, dynamic=False) if compiled else module

    def __call__(self, steps: int) -> Steps:
        """Take steps."""
        losses = []
        started = time.perf_counter()
        for _ in range(steps):
            with self.arithmetic:
                logits = self.module(self.pixels)
            loss = self.loss(logits.float(), self.targets)
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.detach())
        # A number is there when the device has worked it out, and all that was asked of it before.
        last = float(losses[-1])
        seconds = time.perf_counter() - started
        return Steps(steps * len(self.pixels), seconds, float(losses[0]) if steps > 1 else last)


def _fastai(network: Network, recipe: Recipe, *, pixels: Tensor, targets: Tensor, device: str) -> Learn:
    loss = location_loss(recipe.loss)
    take = FastaiSteps(recipe.model.backbone, network, pixels=pixels, targets=targets, loss=loss, device=device)

    def learn(steps: int) -> Steps:
        seconds, first = take(steps)
        return Steps(steps * len(pixels), seconds, first)

    return learn


def _run(dataset: Dataset, recipe: Recipe, workshop: Path, steps: int) -> Steps:
    """Train a whole run with so many steps an epoch, and return what its log says of the last epoch."""
    trained = steps * recipe.schedule.batch_size
    number = pl.Series("fold", [1] * trained + [0] * HELD_OUT + [None] * (len(dataset) - trained - HELD_OUT), pl.Int64)
    folds = pl.DataFrame({"id": dataset.ids, "group": range(len(dataset)), "fold": number})
    with tempfile.TemporaryDirectory(dir=workshop) as folder:
        options = TrainOptions(report=lambda _line: None)
        (run,) = train(recipe, dataset, folds, fold=0, out=folder, options=options)
        log = run.log()
    return Steps(trained, trained / log["images_per_second"][-1], log["train_loss"][0], log["data_wait"][-1])


def _in_half_precision(recipe: Recipe) -> Recipe:
    compute = recipe.compute.model_copy(update={"precision": "bfloat16"})
    return recipe.model_copy(update={"compute": compute})


def _in_memory(dataset: Dataset) -> Dataset:
    """Return the same dataset with its pixels decoded and in memory."""
    pixels = tensorstore.array(dataset.read(range(len(dataset))))
    return Dataset(dataset.path, dataset.manifest, dataset.fields, pixels)


def _at_size(
    names: list[str],
    dataset: Dataset,
    recipe: Recipe,
    workshop: Path,
    *,
    device: str,
    rounds: int,
    steps: int,
    advance: Callable[[str, int, int], None],
) -> AtSize:
    peers = ways([name for name in names if name not in COMMAND], dataset, recipe, workshop, device=device)
    waited: list[float] = []
    with _as_the_command(dataset, recipe, workshop, device=device) as ours:
        learners = peers | ours
        first = {name: learners[name](1).loss for name in names}

        def timed(name: str) -> Timed:
            taken = learners[name](steps)
            if name == OURS:
                waited.append(taken.waited)
            return Timed(taken.images, taken.seconds)

        rates = rates_in_turns(
            {name: partial(timed, name) for name in names},
            rounds=rounds,
            advance=partial(advance, f"training at {dataset.size} px"),
        )
    best = best_plain(rates)
    return AtSize(
        dataset.size,
        [compared(rates, name, against=names[0]) for name in names],
        first,
        best,
        compared(rates, OURS, against=best),
        compared(rates, HALF, against=PLAIN_HALF),
        compared(rates, OURS, against=MEMORY),
        # The first round does not count.
        median(waited[1:]),
        {
            name: in_separate_process(_peak, name, dataset.path, recipe, workshop, device, steps)
            for name in names
            if name in {FASTAI, EAGER, OURS}
        },
    )


def best_plain(rates: Rates) -> str:
    """Return the fastest of the ways of plain PyTorch in float32, by the median of its rates."""
    plain = [name for name in rates if name.startswith(EAGER) and name not in IN_HALF]
    return max(plain, key=lambda name: median(rates[name]))


@contextmanager
def _as_the_command(dataset: Dataset, recipe: Recipe, workshop: Path, *, device: str) -> Iterator[dict[str, Learn]]:
    """Lend cytoloc's ways in a process of their own, which treats memory as `cytoloc train` does, and no other way."""
    begun = (Path(dataset.path), recipe, workshop, device, torch.get_num_threads())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=begun) as process:
        yield {name: partial(_ask, process, name) for name in COMMAND}


_begun: dict[str, Learn] = {}
"""cytoloc's ways, in their process."""


def _begin(path: Path, recipe: Recipe, workshop: Path, device: str, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _begun.update(ways(list(COMMAND), open_dataset(path), recipe, workshop, device=device))


def _ask(process: ProcessPoolExecutor, name: str, steps: int) -> Steps:
    return process.submit(_take, name, steps).result()


def _take(name: str, steps: int) -> Steps:
    return _begun[name](steps)


def _peak(name: str, path: Path, recipe: Recipe, workshop: Path, device: str, steps: int) -> float:
    if name in COMMAND:
        keep_freed_memory()
    ways([name], open_dataset(path), recipe, workshop, device=device)[name](steps)
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else peak_mb()


def _device(wanted: str) -> str:
    """Return the kind of device that Lightning trains on here.

    Raises:
        SettingsError: If another is wanted.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = found.type if found else "cpu"
    if wanted not in {"auto", here}:
        raise SettingsError(
            f"Training runs on {here} here, not on {wanted}.",
            hint="Set CUDA_VISIBLE_DEVICES to nothing to measure the CPU." if wanted == "cpu" else "Use --device auto.",
        )
    return here


def _device_name(device: str) -> str:
    return f"cuda, {torch.cuda.get_device_name()}" if device == "cuda" else device
