"""Check of a GPU: equal probabilities, and the speed of prediction and training against plain PyTorch.

``python -m benchmarks.gpu_check`` prints one table, and takes at most ten minutes. Without a GPU it says so and ends
with exit code 0. With a GPU, the exit code is 1 if probabilities differ too much from those of the CPU.

The networks have random weights whose batch normalization fits their input. The fields are simulated. Plain PyTorch has
the same network, on pixels in memory: float32, channels first, AdamW.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import numpy as np
import torch

from benchmarks.inference import random_network
from benchmarks.rounds import Timed, compared, in_turns, rates_in_turns
from benchmarks.train import COMPILED, EAGER, FUSED, HALF, MEMORY, OURS, PLAIN_HALF, bench_recipe, ways
from cytoloc.channels import CHANNELS
from cytoloc.choices import HeadName
from cytoloc.dataset.store import Dataset
from cytoloc.errors import SettingsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.devices import Precision
from cytoloc.models.network import Network
from cytoloc.predict.engines.engine import PixelsToOutputs
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.sources import DatasetSource
from cytoloc.simulate.plan import Design
from cytoloc.simulate.study import simulate_dataset

LARGEST_DIFFERENCE: Final[dict[Precision, float]] = {"float32": 0.005, "bfloat16": 0.1, "float16": 0.02}
"""Largest accepted difference of a probability from the CPU's. GPUs compute float32 convolutions with 10-bit TF32."""

OURS_COMPILED: Final = f"{OURS}, compiled"


@dataclass(frozen=True, kw_only=True)
class Check:
    """What is measured.

    Attributes:
        device: The device that is compared with the CPU.
        networks: Backbone and head of each network. The first one is trained.
        size: Edge length of fields, in pixels.
        fields: Number of simulated fields.
        predicted: Number of fields per batch of predictions.
        trained: Number of fields per training step.
        steps: Number of training steps per measurement.
        rounds: Number of rounds.
        compiled: Whether to measure ``torch.compile`` too.
    """

    device: str = "cuda"
    networks: tuple[tuple[str, HeadName], ...] = (
        ("resnet34", "average-max"),
        ("tf_efficientnet_lite0", "average-max"),
        ("resnet34", "multi-stage"),
    )
    size: int = 256
    fields: int = 200
    predicted: int = 64
    trained: int = 32
    steps: int = 6
    rounds: int = 3
    compiled: bool = True


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        what: What was measured.
        value: The result.
        compared: The result relative to a reference, or a verdict.
        failed: Whether the result is unacceptable.
    """

    what: str
    value: str
    compared: str = ""
    failed: bool = False


def check_rows(check: Check) -> Iterator[Row]:
    """Measure, and yield each row of the table when it is known.

    Args:
        check: What is measured.

    Yields:
        The rows.
    """
    yield Row("device", device_name(check.device), f"PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory() as place:
        design = Design(n_fields=check.fields, seed=0, size=check.size)
        dataset = simulate_dataset(Path(place) / "fields.dataset", design)
        for backbone, head in check.networks:
            network = random_network(backbone, dataset.read(range(8)), head=head)
            name = f"{backbone}, {head}"
            yield from parity_rows(name, network, dataset, check)
            yield from prediction_rows(name, network, dataset, check)
        yield from training_rows(dataset, Path(place), check)


def parity_rows(name: str, network: Network, dataset: Dataset, check: Check) -> Iterator[Row]:
    """Yield the largest difference of probabilities from those of the CPU in float32, for each precision."""
    pixels = dataset.read(range(min(32, len(dataset))))
    expected = model_of(network, "cpu", size=check.size).probabilities(pixels)
    for precision in get_args(Precision):
        what = f"parity: {name}, {precision} against CPU float32"
        try:
            found = model_of(network, check.device, size=check.size).probabilities(pixels, precision=precision)
        except SettingsError as error:
            yield Row(what, "not supported", error.message)
            continue
        difference = float(np.abs(found - expected).max())
        failed = not difference <= LARGEST_DIFFERENCE[precision]
        yield Row(what, f"{difference:.2g}", "DIFFERS" if failed else "ok", failed)


def prediction_rows(name: str, network: Network, dataset: Dataset, check: Check) -> Iterator[Row]:
    """Yield the speed of prediction: plain PyTorch, compiled PyTorch, and cytoloc in each precision."""
    pixels = torch.from_numpy(dataset.read(range(len(dataset))))
    plain = PixelsToOutputs(copy.deepcopy(network)).to(check.device).to(memory_format=torch.contiguous_format).eval()
    model = model_of(network, check.device, size=check.size)

    def run(module: Callable[[torch.Tensor], Any]) -> float:
        with torch.inference_mode():
            for batch in torch.split(pixels, check.predicted):
                module(batch.to(check.device))[0].sigmoid().cpu()
        return len(pixels)

    def ours(precision: Precision) -> float:
        sources = [DatasetSource(dataset)]
        return len(model.predict_sources(sources, tta=1, batch_size=check.predicted, precision=precision))

    precisions = [each for each in get_args(Precision) if check.device != "cpu" or each != "float16"]
    methods: dict[str, Callable[[], float | Timed]] = {"PyTorch, float32": partial(run, plain)}
    if check.compiled:
        methods["PyTorch, float32, compiled"] = partial(run, torch.compile(plain))
    methods |= {f"cytoloc from a dataset, {each}": partial(ours, each) for each in precisions}
    for way in in_turns(methods, against="PyTorch, float32", rounds=check.rounds):
        yield Row(f"prediction: {name}, {way.name}", f"{way.rate:,.0f} fields/s", f"{way.ratio:.2f}x")


def training_rows(dataset: Dataset, workshop: Path, check: Check) -> Iterator[Row]:
    """Yield the speed of training steps of the first network: plain PyTorch, and complete runs of cytoloc."""
    backbone = check.networks[0][0]
    recipe = bench_recipe(backbone, size=check.size, batch=check.trained)
    names = [EAGER, FUSED, PLAIN_HALF, *((COMPILED,) if check.compiled else ()), MEMORY, OURS, HALF]
    learners = ways(names, dataset, recipe, workshop, device=check.device)
    if check.compiled:
        compute = recipe.compute.model_copy(update={"compile": True})
        compiled = recipe.model_copy(update={"compute": compute})
        learners[OURS_COMPILED] = ways([OURS], dataset, compiled, workshop, device=check.device)[OURS]
        names.append(OURS_COMPILED)

    def timed(name: str) -> Timed:
        taken = learners[name](check.steps)
        return Timed(taken.images, taken.seconds)

    rates = rates_in_turns({name: partial(timed, name) for name in names}, rounds=check.rounds)
    for name in names:
        way = compared(rates, name, against=EAGER)
        yield Row(f"training: {backbone}, {name}", f"{way.rate:,.0f} fields/s", f"{way.ratio:.2f}x")


def model_of(network: Network, device: str, *, size: int) -> Model:
    """Return a model that computes a copy of a network with PyTorch."""
    info = ModelInfo(size=size, channels=CHANNELS, label_set=LabelSet.hpa28())
    return Model([copy.deepcopy(network)], info, device=device, engine="torch")


def device_name(device: str) -> str:
    """Return the name of a device, with the version of CUDA for a GPU."""
    return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}" if device != "cpu" else "CPU"


def print_table(check: Check) -> bool:
    """Print each row of the table when it is known.

    Args:
        check: What is measured.

    Returns:
        Whether all results are acceptable.
    """
    passed = True
    for row in check_rows(check):
        print(f"{row.what:<72} {row.value:>20}  {row.compared}", flush=True)
        passed = passed and not row.failed
    return passed


def main() -> int:
    """Run the check, and return the exit code."""
    if not torch.cuda.is_available():
        print("This machine has no GPU that PyTorch can use. Nothing was checked.")
        return 0
    return 0 if print_table(Check()) else 1


if __name__ == "__main__":
    sys.exit(main())
