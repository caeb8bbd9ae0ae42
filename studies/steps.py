"""How long a training step takes by how its numbers lie and how weights are updated, in turns on random pixels.

``python studies/steps.py resnet34 128 16``: a network of timm, the pictures' edge in pixels, fields in a batch.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch import Tensor, nn

from cytoloc.models.losses import focal_loss
from cytoloc.models.network import Network, build_network

ROUNDS = 6
"""Of which the first only warms up."""


def network(backbone: str, size: int) -> Network:
    """Return the network that is to learn, always the same."""
    torch.manual_seed(0)
    built = build_network(
        backbone,
        weights="none",
        head="average-max",
        dropout=0.5,
        prior=0.05,
        mean=(0.08, 0.05, 0.05, 0.08),
        std=(0.14, 0.10, 0.15, 0.14),
        size=size,
    )
    return built.train()


class ChannelsFirstNetwork(nn.Module):
    """The same network on pixels and filters as torch lays them out by itself."""

    def __init__(self, same: Network) -> None:
        super().__init__()
        self.same = same.to(memory_format=torch.contiguous_format)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.same.head(self.same.backbone(self.same.normalise(pixels)))
        return logits


def main(backbone: str, size: int, batch: int) -> None:
    """Print a line for each way: the median of a step, and of the update in it."""
    pixels = torch.randint(0, 256, (batch, 4, size, size), dtype=torch.uint8)
    targets = (torch.rand(batch, 28) < 0.1).float()
    ways: dict[str, tuple[nn.Module, bool]] = {
        "channels first": (ChannelsFirstNetwork(network(backbone, size)), False),
        "channels last": (network(backbone, size), False),
        "channels last, fused AdamW": (network(backbone, size), True),
    }
    optimizers = {name: torch.optim.AdamW(one.parameters(), fused=fused) for name, (one, fused) in ways.items()}
    steps: dict[str, list[float]] = {name: [] for name in ways}
    updates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (learner, _fused) in ways.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            focal_loss(learner(pixels), targets).backward()  # type: ignore[no-untyped-call]
            update = time.perf_counter()
            optimizers[name].step()
            end = time.perf_counter()
            steps[name].append(end - start)
            updates[name].append(end - update)
    for name in ways:
        step, update = (statistics.median(times[name][1:]) for times in (steps, updates))
        print(f"{backbone} {size} px, batch {batch}, {name}: step {step:.2f} s, of which the update {update:.3f} s")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
