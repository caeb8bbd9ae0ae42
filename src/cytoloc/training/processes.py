"""The processes that learn a run together: how many, who started them, and whether that can be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NamedTuple

import pytorch_lightning as lightning
import torch
from pytorch_lightning.strategies import DDPStrategy

from cytoloc.errors import SettingsError, TrainingError
from cytoloc.recipe import Recipe
from cytoloc.training.devices import accelerator
from cytoloc.training.together import Share, told


@dataclass(frozen=True, kw_only=True)
class Processes:
    """How many processes learn a run, and which of them this is.

    Attributes:
        per_node: Processes on each machine, a device each.
        nodes: Machines.
        rank: The number of this process, from 0; the first one writes, and speaks.
        strategy: Lightning's, of a cluster that it does not know itself, such as Ray's; None leaves it to cytoloc.
        plugins: Lightning's, likewise.
    """

    per_node: int = 1
    nodes: int = 1
    rank: int = 0
    strategy: Any = None
    plugins: tuple[Any, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return self.per_node * self.nodes

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """What of each batch is this one's own."""
        return Share(self.rank, self.count)


ALONE: Final = Processes()


PATIENCE: Final = timedelta(hours=1)
"""How long a process waits for the others, such as for the first while it writes."""


class _Started(NamedTuple):
    by: str
    per_node: int
    nodes: int
    rank: int


def find_processes(
    devices: int | None, nodes: int | None, *, environ: Mapping[str, str], available: int | None = None
) -> Processes:
    """Return the processes that learn together: those that torchrun or SLURM started, or those to be started here.

    Args:
        devices: Processes on each machine; None: as many as were started, or one.
        nodes: Machines; None: likewise.
        environ: Environment variables.
        available: Devices of this machine; None counts them.

    Raises:
        SettingsError: If other numbers are asked for than were started, or several machines without anything that
            starts processes on them.
        TrainingError: If there are fewer devices.
    """
    started = _started(environ)
    if started is None:
        if (nodes or 1) > 1:
            raise SettingsError(
                f"{nodes} machines need something that starts cytoloc on each of them.",
                hint="Start it by torchrun or srun on all of them, see docs/training.md.",
            )
        # Lightning starts the other processes of one machine, with their numbers.
        found = Processes(per_node=devices or 1, rank=int(environ.get("LOCAL_RANK", 0)) if (devices or 1) > 1 else 0)
    else:
        asked = (devices or started.per_node, nodes or started.nodes)
        if asked != (started.per_node, started.nodes):
            raise SettingsError(
                f"{started.by} started {started.per_node} processes on each of {started.nodes} machines, but"
                f" {asked[0]} on each of {asked[1]} are asked for.",
                hint="Leave out --devices and --nodes, or start as many.",
            )
        found = Processes(per_node=started.per_node, nodes=started.nodes, rank=started.rank)
    have = device_count() if available is None else available
    if found.per_node > have:
        raise TrainingError(
            f"{found.per_node} processes need a device each; this machine has {have}.",
            hint=f"Use --devices {have} or fewer, or start fewer processes.",
        )
    return found


def device_count() -> int:
    """Return how many devices of the best kind this machine has: GPUs, or else cores that we may use."""
    kind = accelerator()
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return 1
    # Not on macOS.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_processes(processes: Processes, recipe: Recipe, *, fields: int) -> None:
    """Raise :class:`TrainingError` if processes cannot share the batches of a recipe.

    Args:
        processes: That are to learn together.
        recipe: What they are to learn.
        fields: How many there are to learn from.
    """
    batch, count, sync = recipe.schedule.batch_size, processes.count, recipe.compute.sync_batch_norm
    if count == 1:
        return
    # The batch norms need two fields, wherever they see them.
    least = count if sync else 2 * count
    if batch % count or batch < least:
        even = max(least, round(batch / count) * count)
        raise TrainingError(
            f"A batch of {batch} fields cannot be shared by {count} processes"
            + (" evenly." if batch % count else ": the batch norms of each need two fields."),
            hint=f"Use --set schedule.batch_size={even}, the size of the batch of all, or other --devices.",
        )
    if fields < batch:
        raise TrainingError(
            f"The {fields} fields to learn from are fewer than a batch of {batch}, and cannot be shared.",
            hint="Lower schedule.batch_size, or use one process.",
        )
    if sync and accelerator() != "cuda":
        raise TrainingError(
            f"compute.sync_batch_norm needs CUDA GPUs; this machine has a {accelerator()} device.",
            hint="Use --set compute.sync_batch_norm=false: each process then has batch norms of its own.",
        )


def lightning_settings(processes: Processes) -> dict[str, Any]:
    """Return how Lightning's trainer starts, or finds, the processes."""
    if processes.strategy is not None:
        return {"strategy": processes.strategy, "devices": "auto"}
    if processes.count == 1:
        return {"devices": 1}
    # Weights that are frozen have no gradient, so they must be looked for; once they are free, torch says so on a line.
    strategy = DDPStrategy(find_unused_parameters=True, timeout=PATIENCE)
    return {"strategy": strategy, "devices": processes.per_node, "num_nodes": processes.nodes}


@contextmanager
def others() -> Iterator[None]:
    """Turn what torch says when another process is gone into a :class:`TrainingError`; let other errors pass."""
    try:
        yield
    except RuntimeError as error:
        # On CPUs it is a plain RuntimeError, which names what carries the messages.
        if not isinstance(error, torch.distributed.DistError) and "gloo/transport" not in str(error):
            raise
        raise TrainingError(
            "Another process that learns this run has ended, or cannot be reached.",
            hint="See what it said, and go on by --resume.",
        ) from error


def part() -> None:
    """Let go of the other processes, all at the same time: one that ends earlier may take those down that hold on."""
    if torch.distributed.is_initialized():
        told(None)
        torch.distributed.destroy_process_group()


class SameStart(lightning.Callback):
    """Stops a run whose processes do not start alike: they would wait for each other, or learn different things."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self.start = dict(start)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Compare with the other processes.

        Raises:
            TrainingError: If any starts otherwise.
        """
        for rank, other in enumerate(told(self.start)):
            different = [key for key, value in self.start.items() if other[key] != value]
            if different:
                raise TrainingError(
                    f"Processes {trainer.global_rank} and {rank} do not start alike: {', '.join(different)}.",
                    hint="Give all of them the same command, and a folder that all machines share.",
                )


def _started(environ: Mapping[str, str]) -> _Started | None:
    """Return who started how many processes, by the rules of Lightning, which meets them again; None: nobody."""
    if "TORCHELASTIC_RUN_ID" in environ:
        local, world = int(environ["LOCAL_WORLD_SIZE"]), int(environ["WORLD_SIZE"])
        return _Started("torchrun", local, world // local, int(environ["RANK"]))
    interactive = environ.get("SLURM_JOB_NAME") in {"bash", "interactive"}
    if "SLURM_NTASKS" in environ and not interactive:
        tasks, nodes = int(environ["SLURM_NTASKS"]), int(environ.get("SLURM_NNODES", "1"))
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environ:
            raise SettingsError(
                f"SLURM has {tasks} tasks, but not a number for each machine.",
                hint="Say --ntasks-per-node in place of --ntasks, see docs/training.md.",
            )
        per_node = int(environ.get("SLURM_NTASKS_PER_NODE", "1"))
        return _Started("SLURM", per_node, nodes, int(environ.get("SLURM_PROCID", "0")))
    return None
