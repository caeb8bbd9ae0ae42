"""Speed of segmentation, against the network alone, and of SubCell, against the authors' way to compute it.

CPU seconds are comparable on a machine that is busy with other things; other seconds are not.

    python -m benchmarks.cells IMAGES --weights instanseg.pt [--fields 16] [--out cells.json]

IMAGES is a folder of fields in full resolution with the file names of the 2018 competition. They are repeated until
there are --fields fields. The weights of SubCell are random, which does not change its speed. The authors' way to
compute it is written here, because their code needs an old release of transformers. It has separate layers for
queries, keys and values. Like the authors' code, it computes attention in separate steps, and returns it for all
layers.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cytoloc.cells.crops import CropOptions
from cytoloc.cells.methods import WORKING_UM, FieldImage, InstanSeg
from cytoloc.cells.segmenting import segment_cells
from cytoloc.channels import CHANNELS
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.images.scale import resize
from cytoloc.models.devices import one_thread
from cytoloc.models.instanseg import InstanSegNet
from cytoloc.models.subcell import empty_network
from cytoloc.parallel import usable_cores
from cytoloc.predict.engines.choosing import build_engines
from cytoloc.predict.engines.engine import Engine, EngineName

PIXEL_UM = 0.08


def segmentation(images: Path, weights: Path, fields: int) -> dict[str, Any]:
    """Return seconds per field of the network alone, and of the whole command."""
    found = find_kaggle_fields(images)
    names = list(found)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "fields"
        folder.mkdir()
        for number in range(fields):
            name = names[number % len(names)]
            for color, file in found[name].items():
                (folder / f"{number:04}_{color}.png").symlink_to((images / file).resolve())
        network = InstanSegNet(weights)
        inputs = []
        for name in names:
            field = FieldImage(name, read_kaggle_field(images, name, found[name]), CHANNELS, PIXEL_UM)
            edge = round(field.image.shape[1] * PIXEL_UM / WORKING_UM)
            inputs.append(resize(field.planes(cytoplasm_only=False), edge, edge).astype(np.float32))

        def both(number: int) -> None:
            """Run the network twice, as for a field."""
            planes = inputs[number % len(inputs)]
            network(planes)
            network(planes[-1:], nuclei_only=True)

        with one_thread(), ThreadPoolExecutor(usable_cores()) as pool:
            started, used = time.perf_counter(), time.process_time()
            list(pool.map(both, range(fields)))
            alone, alone_cpu = (time.perf_counter() - started) / fields, (time.process_time() - used) / fields
        started, used = time.perf_counter(), time.process_time()
        method, crops = InstanSeg(weights=weights), CropOptions(size=256)
        cells = segment_cells(folder, Path(place) / "cells", method=method, crops=crops, pixel_um=PIXEL_UM)
        whole, whole_cpu = (time.perf_counter() - started) / fields, (time.process_time() - used) / fields
        return {
            "fields": fields,
            "cells": len(cells),
            "network_s": round(alone, 3),
            "whole_s": round(whole, 3),
            "network_cpu_s": round(alone_cpu, 3),
            "whole_cpu_s": round(whole_cpu, 3),
            "network_share_of_cpu": round(alone_cpu / whole_cpu, 3),
            "most_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def subcell(size: int, crops: int) -> dict[str, Any]:
    """Return CPU seconds per cell of SubCell with four channels and ten classifiers, on one thread.

    ``predict`` converts the network for OpenVINO if this is installed and there are at least 32 cells. The conversion
    is not counted.
    """
    width, depth, tokens = 768, 12, (size // 16) ** 2 + 1
    meta = torch.device("meta")
    shapes = {
        "backbone.body.patch_embed.proj.weight": (width, 4, 16, 16),
        "backbone.body.pos_embed": (1, tokens, width),
        "backbone.pool.v.weight": (512, width),
        "backbone.pool.scores.weight": (2, 512),
        **{f"backbone.body.blocks.{number}.mlp.fc1.weight": (4 * width, width) for number in range(depth)},
        **{f"head.heads.{number}.0.weight": (512, 2 * width) for number in range(10)},
        "head.heads.0.3.weight": (256, 512),
        "head.heads.0.6.weight": (31, 256),
    }
    network: Any = empty_network({name: torch.empty(shape, device=meta) for name, shape in shapes.items()}).eval()
    pixels = torch.randint(0, 256, (1, 4, size, size), dtype=torch.uint8)
    authors = AuthorsEncoder(width, depth, tokens).eval()
    one = torch.device("cpu")
    with one_thread(), torch.inference_mode():
        engines: dict[EngineName, Engine] = {}
        for name in ("torch", "openvino"):
            (engines[name],) = build_engines([network], name, device=one, precision="float32", size=size)
        ways: dict[str, Callable[[], Any]] = {
            "authors": lambda: network.head(authors.pooled(pixels)),
            **{name: partial(engine, pixels) for name, engine in engines.items()},
        }
        used: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(crops + 1):
            for name, way in ways.items():
                started = time.process_time()
                way()
                used[name].append(time.process_time() - started)
    # The first round is for warming up.
    seconds = {name: median(times[1:]) for name, times in used.items()}
    ratios = {
        name: [round(authors / own, 2) for authors, own in zip(used["authors"][1:], used[name][1:], strict=True)]
        for name in engines
    }
    return {
        "size": size,
        "cpu_s": {name: round(value, 2) for name, value in seconds.items()},
        "times_as_fast_as_authors": {name: [min(all_), median(all_), max(all_)] for name, all_ in ratios.items()},
    }


class AuthorsEncoder(nn.Module):
    """The encoder of SubCell as its authors compute it: a vision transformer of transformers, with all attentions.

    Args:
        width: Number of features of a token.
        depth: Number of layers.
        tokens: Number of tokens.
    """

    def __init__(self, width: int, depth: int, tokens: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(4, width, 16, stride=16)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, tokens, width))
        self.layers = nn.ModuleList(AuthorsLayer(width) for _ in range(depth))
        self.last = nn.LayerNorm(width, eps=1e-12)
        self.v, self.u, self.scores = nn.Linear(width, 512), nn.Linear(width, 512), nn.Linear(512, 2)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Return the embedding of images."""
        scaled = pixels.float()
        scaled = (scaled - scaled.amin()) / (scaled.amax() - scaled.amin() + 1e-6)
        patches = self.patches(scaled).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(patches), -1, -1), patches], dim=1) + self.positions
        kept = []
        for layer in self.layers:
            tokens, attention = layer(tokens)
            kept.append(attention)
        tokens = self.last(tokens)
        gated = self.v(tokens).tanh() * nn.functional.gelu(self.u(tokens))
        weights = self.scores(gated).transpose(1, 2).softmax(dim=2)
        return torch.flatten(weights @ tokens, 1)


class AuthorsLayer(nn.Module):
    """A layer of the encoder, which returns its attention too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output, self.inner, self.outer = (
            nn.Linear(width, width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens, and the attention of each head."""
        inputs = self.before(tokens)
        query, key, value = (
            each(inputs).unflatten(-1, (-1, 64)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        attention = nn.functional.softmax(query @ key.transpose(-1, -2) / 8, dim=-1)
        mixed = (attention @ value).transpose(1, 2).contiguous().flatten(2)
        tokens = tokens + self.output(mixed)
        return tokens + self.outer(nn.functional.gelu(self.inner(self.after(tokens)))), attention


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--fields", type=int, default=16)
    parser.add_argument("--crops", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = {
        "segmentation": segmentation(given.images, given.weights, given.fields),
        "subcell": subcell(640, given.crops),
        "cores": usable_cores(),
    }
    print(json.dumps(results, indent=2))
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
