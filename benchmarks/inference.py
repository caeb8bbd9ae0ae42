"""Inference benchmark: the engines of cytoloc against plain PyTorch, from pixels in memory and from files.

The networks have random weights whose batch normalization fits their input. All methods get the same uint8 pixels and
return logits. PyTorch eager is what a script with timm does: float32, channels first, no compilation. The int8 network
is calibrated on the simulated fields; how far it agrees with float32 is not part of this benchmark.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.rounds import Way, in_turns
from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS
from cytoloc.choices import HeadName
from cytoloc.dataset.from_files import import_kaggle
from cytoloc.dataset.store import open_dataset
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import ModelSpec, Network, build_network
from cytoloc.predict.engines.choosing import build_engines
from cytoloc.predict.engines.engine import PixelsToOutputs
from cytoloc.predict.engines.int8 import int8_engine, quantize
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.sources import DatasetSource, KaggleFolderSource
from cytoloc.simulate.files import simulate_kaggle
from cytoloc.simulate.plan import Design

BACKBONES: Final = ("resnet34", "densenet121", "tf_efficientnet_lite0")
SIZES: Final = (256, 512)
BATCH: Final = 8
PROCESSES: Final = 3
"""Number of processes whose time to the first prediction is measured."""

FIELDS: Final = 32
"""Number of fields of a whole prediction."""
EAGER: Final = "PyTorch eager"
INT8: Final = "cytoloc, engine openvino, int8"
SCRIPT: Final = "script: cv2, DataLoader with 2 workers, timm"
FROM_FILES: Final = "cytoloc, from image files"
FROM_DATASET: Final = "cytoloc, from a dataset"
ALONE: Final = "cytoloc, pixels in memory"


@dataclass(frozen=True)
class InferenceBench:
    """Results of the benchmark.

    Attributes:
        threads: Number of threads.
        batch: Number of fields per batch.
        engines: For each network and size, the speed of each engine.
        whole: For each network and size, the speed of a whole prediction, from files and from a dataset.
        first_s: Seconds from the import of cytoloc to the first prediction of the built-in model, in a new process.
    """

    threads: int
    batch: int
    engines: dict[str, list[Way]]
    whole: dict[str, list[Way]]
    first_s: float


def bench_inference(
    *,
    sizes: tuple[int, ...] = SIZES,
    rounds: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> InferenceBench:
    """Measure the speed of inference.

    Args:
        sizes: Edge lengths of fields in pixels.
        rounds: Number of rounds.
        advance: Called with (done, total) after each network.

    Returns:
        The results.
    """
    engines: dict[str, list[Way]] = {}
    whole: dict[str, list[Way]] = {}
    done, total = 0, len(sizes) * len(BACKBONES)
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            files, path = Path(place) / "files", Path(place) / "fields.dataset"
            simulate_kaggle(files, Design(n_fields=FIELDS, seed=0, size=size))
            import_kaggle(files, out=path, size=size)
            pixels = open_dataset(path)[:]
            for backbone in BACKBONES:
                network = random_network(backbone, pixels[:BATCH])
                name = f"{backbone}, {size} px"
                engines[name] = _engines(network, pixels, rounds=rounds)
                whole[name] = _whole(network, files, path, pixels, rounds=rounds)
                done += 1
                advance(done, total)
    return InferenceBench(torch.get_num_threads(), BATCH, engines, whole, first_prediction_s())


def random_network(backbone: str, pixels: UInt8Array, *, head: HeadName = "average-max") -> Network:
    """Return a network with random weights, whose batch normalization fits some fields."""
    torch.manual_seed(0)
    channels = len(CHANNELS)
    spec = ModelSpec(
        backbone=backbone,
        head=head,
        dropout=0.0,
        prior=0.05,
        locations=28,
        channels=CHANNELS,
        mean=(0.1,) * channels,
        std=(0.15,) * channels,
        each=False,
        size=pixels.shape[2],
    )
    network = build_network(spec).train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.from_numpy(pixels))
    return network.eval()


def _engines(network: Network, pixels: UInt8Array, *, rounds: int) -> list[Way]:
    """Return the speed of each engine for one batch in memory. All fields calibrate the int8 network."""
    batch = torch.from_numpy(pixels[:BATCH])
    device = torch.device("cpu")
    eager = PixelsToOutputs(network).to(memory_format=torch.contiguous_format)

    def run_eager() -> float:
        with torch.inference_mode():
            eager(batch)
        return len(batch)

    ways: dict[str, Callable[[], float]] = {EAGER: run_eager}
    for name in ("torch", "onnx", "openvino"):
        (engine,) = build_engines([network], name, device=device, precision="float32", size=pixels.shape[2])
        ways[f"cytoloc, engine {name}"] = partial(_run, engine, batch)
    ways[INT8] = partial(_run, int8_engine(quantize(network, pixels)), batch)
    return in_turns(ways, against=EAGER, rounds=rounds)


def _run(engine: Callable[[torch.Tensor], Any], batch: torch.Tensor) -> float:
    engine(batch)
    return len(batch)


class _Files(TorchDataset[torch.Tensor]):
    """Fields as a short script reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = sorted(path.name.removesuffix("_green.png") for path in folder.glob("*_green.png"))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> torch.Tensor:
        colors = ("red", "green", "blue", "yellow")
        paths = [str(self.folder / f"{self.ids[index]}_{color}.png") for color in colors]
        planes = [np.asarray(cv2.imread(path, cv2.IMREAD_UNCHANGED)) for path in paths]
        return torch.from_numpy(np.stack(planes).astype(np.float32) / 255)


def _whole(network: Network, files: Path, dataset: Path, pixels: UInt8Array, *, rounds: int) -> list[Way]:
    """Return the speed of predictions from files and from a dataset, against a script and against pixels in memory."""
    size = pixels.shape[2]
    info = ModelInfo(size=size, channels=CHANNELS, label_set=LabelSet.hpa28())
    model = Model([network], info, device="cpu", engine="openvino")
    loader = DataLoader(_Files(files), batch_size=BATCH, num_workers=2)
    plain = torch.nn.Sequential(network.backbone, network.head).to(memory_format=torch.contiguous_format)

    def script() -> float:
        with torch.inference_mode():
            for batch in loader:
                torch.sigmoid(plain((batch - 0.1) / 0.15))
        return len(pixels)

    def alone() -> float:
        for start in range(0, len(pixels), BATCH):
            model.probabilities(pixels[start : start + BATCH], tta=1)
        return len(pixels)

    def of(source: Callable[[], Any]) -> float:
        return len(model.predict_sources([source()], tta=1, batch_size=BATCH))

    ways: dict[str, Callable[[], float]] = {
        SCRIPT: script,
        ALONE: alone,
        FROM_FILES: lambda: of(lambda: KaggleFolderSource(files)),
        FROM_DATASET: lambda: of(lambda: DatasetSource(open_dataset(dataset))),
    }
    return in_turns(ways, against=SCRIPT, rounds=rounds)


def first_prediction_s() -> float:
    """Return the seconds from the import of cytoloc to the first prediction of the built-in model, in a new process."""
    code = (
        "import time, warnings; warnings.simplefilter('ignore'); started = time.perf_counter()\n"
        "import cytoloc, numpy as np\n"
        "cytoloc.load('builtin', device='cpu').predict(np.zeros((4, 128, 128), np.uint8), tta=1)\n"
        "print(time.perf_counter() - started)"
    )
    times = []
    for _ in range(PROCESSES):
        said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603  our own code
        times.append(float(said.stdout))
    return sorted(times)[len(times) // 2]
