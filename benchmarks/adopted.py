"""Speed of an adopted DenseNet121, against the network of its authors in eager PyTorch.

    python -m benchmarks.adopted [--variant large] [--fields 4] [--rounds 3]

Both get the same uint8 fields and give the same probabilities, one view per field. The weights are random, which does
not change the speed. The authors' network is written here with torchvision, because their code needs an old PyTorch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import torch
import torchvision
import typer
from torch import Tensor, nn

import cytoloc
from benchmarks.rounds import Way, in_turns, machine
from cytoloc._typing import Float32Array
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import plan_one

AUTHORS: Final = "the authors' network, PyTorch eager"
ADOPTED: Final = "cytoloc, engine openvino"
SIZES: Final = {"plain": 512, "large": 1024}


class AuthorsDenseNet(nn.Module):
    """The DenseNet121 of the first place of 2018.

    Source: https://github.com/CellProfiling/hpa_densenet at 709b803 (MIT), ``models.py``.

    Args:
        is_large: Whether to pool once more after the first layers, as the variant ``large`` does.
    """

    def __init__(self, *, is_large: bool = False) -> None:
        super().__init__()
        self.backbone = torchvision.models.densenet121()
        self.backbone.features.conv0 = nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
        self.bn1, self.fc1 = nn.BatchNorm1d(2048), nn.Linear(2048, 1024)
        self.bn2, self.logit = nn.BatchNorm1d(1024), nn.Linear(1024, 28)
        self.is_large = is_large

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of uint8 fields."""
        mean, std = (
            torch.tensor(each)[:, None, None]
            for each in ((0.074598, 0.050630, 0.050891, 0.076287), (0.122813, 0.085745, 0.129882, 0.119411))
        )
        maps = (pixels / 255 - mean) / std
        for name, layer in self.backbone.features.named_children():
            maps = layer(maps)
            if name == "pool0" and self.is_large:
                maps = nn.functional.max_pool2d(maps, 2)
        maps = maps.relu()
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        logits: Tensor = self.logit(self.bn2(self.fc1(self.bn1(pooled)).relu()))
        return logits


def bench_adopted(variant: Literal["plain", "large"], *, fields: int, rounds: int) -> list[Way]:
    """Measure the speed of both.

    Args:
        variant: ``"plain"``, for fields of 512 px, or ``"large"``, for 1024 px.
        fields: Number of fields per batch.
        rounds: Number of rounds.

    Returns:
        The speed of both.
    """
    torch.manual_seed(0)
    size = SIZES[variant]
    images = np.stack([draw_field(plan_one(place, seed=0, size=size), size=size) for place in range(fields)])
    pixels = torch.from_numpy(images)
    network = AuthorsDenseNet(is_large=variant == "large").train()
    with torch.inference_mode():
        network(pixels)  # so that the batch normalization is not the initial one
    network.eval()
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place) / "weights.pth"
        torch.save({"state_dict": network.state_dict()}, weights)
        bundle = cytoloc.adopt("densenet121", weights, Path(place) / "adopted.cytoloc", variant=variant)
        model = cytoloc.load(bundle, device="cpu", engine="openvino")

    def authors() -> float:
        with torch.inference_mode():
            expected.append(network(pixels).sigmoid().numpy())
        return fields

    def adopted() -> float:
        found.append(model.probabilities(images, tta=1))
        return fields

    expected: list[Float32Array] = []
    found: list[Float32Array] = []
    ways = in_turns({AUTHORS: authors, ADOPTED: adopted}, against=AUTHORS, rounds=rounds)
    if not expected[0].std(axis=0).max() > 1e-3:
        raise RuntimeError("All fields have the same probabilities, so they are not compared.")
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    return ways


def bench(
    variant: Annotated[
        Literal["plain", "large"], typer.Option(help="plain, for fields of 512 px, or large, for 1024 px.")
    ] = "large",
    fields: Annotated[int, typer.Option(help="Number of fields per batch.", min=2)] = 4,
    rounds: Annotated[int, typer.Option(help="Number of rounds.", min=1)] = 3,
) -> None:
    """Compare the speed of an adopted DenseNet121 with that of its authors' network."""
    ways = bench_adopted(variant, fields=fields, rounds=rounds)
    typer.echo(f"{machine()}; densenet121, {variant}, {SIZES[variant]} px")
    for way in ways:
        typer.echo(f"{way.name}: {way.rate:.2f} fields/s, ratio {way.ratio:.2f} ({way.least:.2f} to {way.most:.2f})")


if __name__ == "__main__":
    typer.run(bench)
