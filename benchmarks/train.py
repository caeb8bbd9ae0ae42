"""Training benchmark: cytoloc, fastai and plain PyTorch with the same network, loss, batch and kind of optimizer.

Training is deterministic: no dropout and no augmentation. All methods must therefore have the same first loss, which is
checked. fastai and PyTorch repeat one normalized float batch. cytoloc reads batches as uint8 and normalizes them in the
network, in a complete run (:func:`cytoloc.training.run.train`) whose second epoch is timed. It runs in another process,
with the memory settings of the command; the other methods use the defaults.
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
"""Methods that do the same as the command `cytoloc train`."""

IN_HALF: Final = frozenset({PLAIN_HALF, HALF})
"""Methods with 16-bit precision. fastai supports half precision only on CUDA."""

SIZES: Final = (128, 256)
"""Default edge lengths of images in pixels."""

STEPS: Final = 4
"""Number of steps per measurement."""

HELD_OUT: Final = 2
"""Number of validation fields of cytoloc's run; validation is not timed."""

SAME_LOSS: Final = 1e-3
"""Largest relative difference of first losses, from rounding."""

NEARLY: Final = 0.03
"""Largest relative difference of first losses in half precision, which has three significant digits."""


class Steps(NamedTuple):
    """Timed training steps.

    Attributes:
        images: Number of images in the timed steps.
        seconds: Time of these steps in seconds.
        loss: Loss of the first step. For a run, loss of the first epoch, which is equal if the epoch has one step.
        waited: Share of the time spent waiting for pixels.
    """

    images: int
    seconds: float
    loss: float
    waited: float = 0.0


Learn = Callable[[int], Steps]
"""A function that trains a number of steps."""


@dataclass(frozen=True)
class AtSize:
    """Results for images of one size.

    Attributes:
        size: Edge length of images in pixels.
        steps: Training in images per second, relative to fastai, or to plain PyTorch if fastai is not installed.
        first_loss: Loss of the first step, by method.
        best_plain: The fastest method with plain PyTorch in float32.
        ours_to_best: cytoloc from a dataset, relative to ``best_plain``.
        half_to_half: cytoloc from a dataset, relative to plain PyTorch, both in bfloat16.
        ours_to_memory: cytoloc from a dataset, relative to cytoloc with the same pixels in memory.
        waited: Share of the time that cytoloc waited for pixels of the dataset, median over rounds.
        peak_mb: Peak memory of a training process in megabytes, by method; on CUDA, memory of the device.
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
        """Whether all methods have the same first loss, with a larger tolerance in half precision."""
        usual = median(self.first_loss.values())
        return all(
            abs(loss - usual) <= (NEARLY if name in IN_HALF else SAME_LOSS) * usual
            for name, loss in self.first_loss.items()
        )


@dataclass(frozen=True)
class TrainBench:
    """Results of the benchmark.

    Attributes:
        device: Device.
        threads: Number of PyTorch's CPU threads.
        backbone: Name of the network in timm.
        batch: Number of fields per step.
        missing: Packages that are not installed and were not timed.
        sizes: Results per image size.
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
    """Compare training speed and memory with fastai and plain PyTorch.

    Args:
        datasets: Labeled datasets of different image sizes, with the fields of ``steps`` batches and :data:`HELD_OUT`
            more.
        workshop: Folder for temporary runs.
        backbone: Name of a convolutional network in timm.
        batch: Number of fields per step.
        device: ``auto``, or the device that Lightning uses on this machine.
        compiled: Also time plain PyTorch with ``torch.compile``, whose first step takes a minute or more.
        rounds: Number of rounds.
        steps: Number of steps per measurement.
        advance: Called with a description and (done, total).

    Returns:
        The results.

    Raises:
        SettingsError: If training does not run on the device.
        RecipeError: If the backbone does not exist, or does not accept images of these sizes.
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
    """Return a deterministic recipe with random weights, and the loss and head of the silver-medal baseline."""
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
        # The second epoch is timed.
        "schedule.epochs": 2,
        "schedule.learning_rate": 1e-3,
        "select.tta": 1,
    }
    return load_recipe("quick", overrides=[f"{key}={value}" for key, value in settings.items()])


def ways(names: list[str], dataset: Dataset, recipe: Recipe, workshop: Path, *, device: str) -> dict[str, Learn]:
    """Return the methods by name; all start with the same weights and the same batch."""
    # Same seed and order as in cytoloc.training.run.
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
    """A training loop in PyTorch."""

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
        # Compile for this shape only, even if another shape was compiled before.
        self.module = torch.compile(module, dynamic=False) if compiled else module

    def __call__(self, steps: int) -> Steps:
        """Train a number of steps."""
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
        # Reading a value waits for the device to finish all earlier work.
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
    """Train a run with a number of steps per epoch, and return the results of its last epoch from the log."""
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
    """Return a copy of a dataset with decoded pixels in memory."""
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
        # The warm-up round is excluded.
        median(waited[1:]),
        {
            name: in_separate_process(_peak, name, dataset.path, recipe, workshop, device, steps)
            for name in names
            if name in {FASTAI, EAGER, OURS}
        },
    )


def best_plain(rates: Rates) -> str:
    """Return the fastest method with plain PyTorch in float32, by median rate."""
    plain = [name for name in rates if name.startswith(EAGER) and name not in IN_HALF]
    return max(plain, key=lambda name: median(rates[name]))


@contextmanager
def _as_the_command(dataset: Dataset, recipe: Recipe, workshop: Path, *, device: str) -> Iterator[dict[str, Learn]]:
    """Yield cytoloc's methods, run in a process with the memory settings of `cytoloc train`."""
    begun = (Path(dataset.path), recipe, workshop, device, torch.get_num_threads())
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=begun) as process:
        yield {name: partial(_ask, process, name) for name in COMMAND}


_begun: dict[str, Learn] = {}
"""cytoloc's methods, in the training process."""


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
    """Return the kind of device that Lightning uses on this machine.

    Raises:
        SettingsError: If another device is requested.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    here = found.type if found else "cpu"
    if wanted not in {"auto", here}:
        raise SettingsError(
            f"Training on this machine runs on {here}, not on {wanted}.",
            hint="Set CUDA_VISIBLE_DEVICES= to time the CPU." if wanted == "cpu" else "Use --device auto.",
        )
    return here


def _device_name(device: str) -> str:
    return f"cuda, {torch.cuda.get_device_name()}" if device == "cuda" else device
