"""Training steps of several processes. It imports little, because each process imports it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cytoloc.models import losses
from cytoloc.training.distributed import Processes

PROCESSES = 2


TERMS: dict[str, losses.Loss] = {
    "focal": losses.focal_loss,
    "soft_f1": losses.soft_f1_loss,
    "symmetric_focal": losses.symmetric_focal_loss,
    "hard_cross_entropy": partial(losses.hard_cross_entropy_loss, hardest=20),
    "symmetric_lovasz": losses.symmetric_lovasz_loss,
    "macro_f1": losses.macro_f1_loss,
    "asymmetric": losses.asymmetric_loss,
    "arcface": lambda cosines, targets: losses.arcface_loss(
        torch.tanh(cosines), targets.argmax(dim=1) - 2, margin=0.3, scale=4
    ),
}


def trained(loss: losses.Loss, processes: Processes) -> tuple[list[float], list[Tensor]]:
    """Return the losses of three steps of a small network, and its weights after them."""
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 28)).double()
    if processes.world_size > 1:
        network = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    said = []
    for _ in range(3):
        fields, targets = torch.randn(8, 6).double(), (torch.rand(8, 28) < 0.2).double()
        optimizer.zero_grad()
        total = loss(
            processes.all_gather_with_gradient(network(processes.shard(fields))),
            processes.all_gather(processes.shard(targets)),
        )
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        said.append(total.item())
    return said, [weight.detach() for weight in network.parameters()]


def train_a_shard(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    torch.save(
        {name: trained(loss, Processes(per_node=PROCESSES, rank=rank)) for name, loss in TERMS.items()},
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()
