"""Devices, and the processes that train one run together.

Each process has its part of every batch, in order. Random numbers for images are drawn for the whole batch, and losses
are computed on the whole batch. The result therefore does not depend on the number of processes, with the exceptions in
docs/how-to/train.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from cytoloc.choices import Device
from cytoloc.errors import SettingsError, TrainingError
from cytoloc.recipes.recipe import Recipe

PRECISION: Final[dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}
"""Lightning's name for each precision."""


def accelerator(device: Device = "auto") -> Literal["cuda", "mps", "cpu"]:
    """Return the kind of device to train on.

    Args:
        device: The kind of device; ``auto`` for the fastest one available.

    Returns:
        The kind of device.

    Raises:
        SettingsError: If ``device`` is unknown, or not available on this machine.
    """
    if device not in get_args(Device):
        raise SettingsError(f"`device` is {device!r}.", hint=f"Choose one of {', '.join(get_args(Device))}.")
    found: list[Literal["cuda", "mps", "cpu"]] = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    if torch.cuda.is_available():
        found.insert(0, "cuda")
    if device == "auto":
        return found[0]
    if device not in found:
        raise SettingsError(
            f"`device` is {device!r}, which is not available on this machine.",
            hint=f"Choose {' or '.join(found)}, or auto.",
        )
    return device


def device_count(device: str) -> int:
    """Return the number of devices of a kind: GPUs, or the CPU cores that this process may use."""
    if device == "cuda":
        return torch.cuda.device_count()
    if device == "mps":
        return 1
    # os.sched_getaffinity does not exist on macOS.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_precision(precision: str, device: str) -> None:
    """Raise :class:`TrainingError` if a kind of device cannot train with a precision.

    ``float16`` loses small gradients unless they are scaled, which works on CUDA devices only. Without this check,
    Lightning would silently use ``bfloat16``.

    Args:
        precision: The precision.
        device: The kind of device.
    """
    if precision == "float16" and device != "cuda":
        raise TrainingError(
            f"`compute.precision` is float16, which needs a CUDA GPU, but this machine trains on {device}.",
            hint="Set compute.precision=float32, or bfloat16.",
        )


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that train a run together, and the rank of this one.

    Attributes:
        per_node: Number of processes per machine, one device each.
        nodes: Number of machines.
        rank: Number of this process, from 0. Process 0 writes files and prints.
        strategy: Lightning's strategy for a cluster that Lightning does not detect, such as Ray. None: DDP.
        plugins: Lightning's plugins for such a cluster.
    """

    per_node: int = 1
    nodes: int = 1
    rank: int = 0
    strategy: Any = None
    plugins: tuple[Any, ...] = ()

    @property
    def world_size(self) -> int:
        """The total number of processes."""
        return self.per_node * self.nodes

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def shard(self, whole: Tensor, *, dim: int = 0) -> Tensor:
        """Return this process's part of a tensor of a whole batch, along a dimension divisible by ``world_size``."""
        size = whole.shape[dim] // self.world_size
        return whole.narrow(dim, self.rank * size, size)

    def shard_rows(self, rows: list[int]) -> list[int]:
        """Return this process's part of the rows of a batch; an uneven batch is filled up with its last row.

        >>> [Processes(per_node=3, rank=rank).shard_rows([5, 6, 7, 8]) for rank in range(3)]
        [[5, 6], [7, 8], [8, 8]]
        """
        size = -(-len(rows) // self.world_size)
        even = rows + rows[-1:] * (size * self.world_size - len(rows))
        return even[self.rank * size : (self.rank + 1) * size]

    def all_gather(self, shard: Tensor) -> Tensor:
        """Return the parts of all processes, concatenated, without gradient. All parts have the same shape."""
        if self.world_size == 1:
            return shard
        shards = [torch.empty_like(shard, memory_format=torch.contiguous_format) for _ in range(self.world_size)]
        torch.distributed.all_gather(shards, shard.contiguous())
        return torch.cat(shards)

    def all_gather_with_gradient(self, shard: Tensor) -> Tensor:
        """Return the parts of all processes, concatenated, with a gradient to this process's part.

        The gradient is multiplied by the number of processes. DDP then averages over processes, which gives the
        gradient that a single process has for the whole batch.
        """
        if self.world_size == 1:
            return shard
        whole: Tensor = _AllGather.apply(shard, self)
        return whole


SINGLE: Final = Processes()
"""A single process."""


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, shard: Tensor, processes: Processes) -> Tensor:
        context.processes = processes
        return processes.all_gather(shard)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        processes: Processes = context.processes
        return processes.world_size * processes.shard(gradient), None


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all processes by rank. Values must be picklable. Without a process group, one value."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def leave_process_group() -> None:
    """Leave the process group after a barrier, because a process that leaves early may abort the others."""
    if torch.distributed.is_initialized():
        all_gather_object(None)
        torch.distributed.destroy_process_group()


def find_processes(
    devices: int | None,
    nodes: int | None,
    *,
    environ: Mapping[str, str],
    device: Device = "auto",
    available: int | None = None,
) -> Processes:
    """Return the processes that train together, started by torchrun, SLURM or Lightning.

    Args:
        devices: Number of processes per machine. None: as many as were started, or one.
        nodes: Number of machines. None: as many as were started, or one.
        environ: Environment variables.
        device: The kind of device to train on.
        available: Number of devices of this machine. None: count them.

    Returns:
        The processes.

    Raises:
        SettingsError: If ``devices`` or ``nodes`` differ from the started processes, or several machines are requested
            without a launcher.
        TrainingError: If this machine has fewer devices, or none of this kind.
    """
    started: tuple[str, Processes] | None = None
    # The variables are read by the same rules as in Lightning, which reads them again.
    if "TORCHELASTIC_RUN_ID" in environ:
        local, world = int(environ["LOCAL_WORLD_SIZE"]), int(environ["WORLD_SIZE"])
        started = "torchrun", Processes(per_node=local, nodes=world // local, rank=int(environ["RANK"]))
    elif "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in {"bash", "interactive"}:
        if int(environ["SLURM_NTASKS"]) > 1 and "SLURM_NTASKS_PER_NODE" not in environ:
            raise SettingsError(
                f"SLURM has {environ['SLURM_NTASKS']} tasks, but SLURM_NTASKS_PER_NODE is not set.",
                hint="Use --ntasks-per-node instead of --ntasks; see docs/how-to/train.md.",
            )
        started = (
            "SLURM",
            Processes(
                per_node=int(environ.get("SLURM_NTASKS_PER_NODE", "1")),
                nodes=int(environ.get("SLURM_NNODES", "1")),
                rank=int(environ.get("SLURM_PROCID", "0")),
            ),
        )
    if started is None:
        if (nodes or 1) > 1:
            raise SettingsError(
                f"`nodes` is {nodes}, but no launcher started cytoloc on several machines.",
                hint="Start cytoloc with torchrun or srun on all machines; see docs/how-to/train.md.",
            )
        # Lightning starts the other processes of this machine, and numbers them.
        found = Processes(per_node=devices or 1, rank=int(environ.get("LOCAL_RANK", 0)) if (devices or 1) > 1 else 0)
    else:
        launcher, found = started
        wanted = (devices or found.per_node, nodes or found.nodes)
        if wanted != (found.per_node, found.nodes):
            raise SettingsError(
                f"{launcher} started {found.per_node} processes on each of {found.nodes} machines, but `devices` is"
                f" {wanted[0]} and `nodes` is {wanted[1]}.",
                hint="Remove `devices` and `nodes`, or start as many processes.",
            )
    if available is None:
        available = device_count(accelerator(device))
    if found.per_node > available:
        raise TrainingError(
            f"{found.per_node} processes need one device each, but this machine has {available}.",
            hint=f"Set `devices` to {available} or fewer, or start fewer processes.",
        )
    return found


def check_batches(processes: Processes, recipe: Recipe, *, fields: int, device: str) -> None:
    """Raise :class:`TrainingError` if processes cannot share the batches of a recipe.

    Args:
        processes: The processes.
        recipe: The recipe.
        fields: Number of training fields.
        device: The kind of device.
    """
    batch, count, sync = recipe.schedule.batch_size, processes.world_size, recipe.compute.sync_batch_norm
    if count == 1:
        return
    # Batch normalization needs two fields, in each process or, if synchronized, in all of them together.
    least = count if sync else 2 * count
    if batch % count or batch < least:
        even = max(least, round(batch / count) * count)
        raise TrainingError(
            f"A batch of {batch} fields cannot be shared by {count} processes"
            + (" evenly." if batch % count else ": batch normalization needs two fields in each process."),
            hint=f"Set schedule.batch_size={even}, the batch size over all processes, or change `devices`.",
        )
    if fields < batch:
        raise TrainingError(
            f"The training folds have {fields} fields, fewer than a batch of {batch}, so processes cannot share it.",
            hint="Lower schedule.batch_size, or use one process.",
        )
    if sync and device != "cuda":
        raise TrainingError(
            f"`compute.sync_batch_norm` needs CUDA GPUs, but this machine trains on {device}.",
            hint="Set compute.sync_batch_norm=false, so that each process normalizes its own part.",
        )
