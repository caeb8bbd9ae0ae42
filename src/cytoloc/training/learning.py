"""The loop that a run learns in, Lightning's: what it is told, what it keeps, and what may go wrong in it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from cytoloc.errors import TrainingError, first_line
from cytoloc.recipe import Recipe, to_toml
from cytoloc.training.cycles import MEASURES, BestOfCycle, StopWithoutProgress
from cytoloc.training.devices import PRECISION, accelerator
from cytoloc.training.module import Learner
from cytoloc.training.processes import Processes, SameStart, lightning_settings
from cytoloc.training.progress import EpochLog, Rows, TrainingBar, WholeCheckpoints
from cytoloc.training.schedule import Schedule

LAST: Final = "last.ckpt"


def learn(
    run: Path,
    recipe: Recipe,
    learner: Learner,
    processes: Processes,
    *,
    name: str,
    progress_bar: bool,
    report: Callable[[str], None],
    keep: Callable[[Rows], None] | None,
) -> None:
    """Train until the schedule ends, from the last checkpoint if there is one."""
    schedule = learner.schedule
    log = EpochLog(run / "log.csv", name=name, schedule=schedule, report=report, keep=keep)
    bar = [TrainingBar(leave=False)] if progress_bar else []
    last = run / LAST
    checkpoint = last if last.exists() else None
    same = SameStart({"run": run.name, "recipe": to_toml(recipe), "goes on": checkpoint is not None})
    with _quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=schedule.total_epochs,
            accumulate_grad_batches=schedule.accumulate,
            gradient_clip_val=recipe.schedule.clip or None,
            callbacks=[same, log, *_between_epochs(run, recipe, schedule, report), *bar],
            default_root_dir=run,
            logger=False,
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            accelerator=accelerator(),
            precision=PRECISION[recipe.compute.precision],
            # Each process reads its own share.
            use_distributed_sampler=False,
            plugins=[WholeCheckpoints(), *processes.plugins],
            **lightning_settings(processes),
        )
        try:
            trainer.fit(learner, ckpt_path=checkpoint)
        except SystemExit:
            # So Lightning ends on Ctrl-C.
            report(f"{run.name} was stopped; go on with --resume.")
            raise KeyboardInterrupt from None


@contextmanager
def room_for(recipe: Recipe) -> Iterator[None]:
    """Turn what torch says when memory does not suffice into a :class:`TrainingError`; let other errors pass."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError, which names its allocator.
        of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
        if not of_memory:
            raise
        size, batch = recipe.image.size, recipe.schedule.batch_size
        halved = (max(2, batch // 2), 2 * recipe.schedule.accumulate)
        # The batch norms need two fields.
        smaller = "--set schedule.batch_size={} --set schedule.accumulate={}".format(*halved)
        raise TrainingError(
            f"A batch of {batch} fields of {size} px does not fit into memory: {first_line(error)}",
            hint=f"Use {smaller if batch > 2 else 'a smaller image.size or model.backbone'}, with another --out.",
        ) from error


@contextmanager
def compiling(recipe: Recipe) -> Iterator[None]:
    """Turn what torch says when it cannot compile a network into a :class:`TrainingError`; let other errors pass."""
    if not recipe.compute.compile:
        yield
        return
    # What was compiled for an earlier run counts towards torch's limit, from which on it compiles no more.
    torch.compiler.reset()
    try:
        yield
    except RuntimeError as error:
        # Its public names do not include the exceptions; importing them takes a second, so not before there is one.
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        raise TrainingError(
            f"The network cannot be compiled: {first_line(error)}",
            hint="Use --set compute.compile=false, with another --out, or look for a C++ compiler, and on a GPU for"
            " Triton.",
        ) from error


def _between_epochs(
    run: Path, recipe: Recipe, schedule: Schedule, report: Callable[[str], None]
) -> list[lightning.Callback]:
    """Return what stops a run without progress and what keeps its checkpoints."""
    watch = recipe.select.watch
    name, mode = MEASURES[watch]
    keep = partial(ModelCheckpoint, run, save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks: list[lightning.Callback] = []
    if recipe.schedule.patience:
        patience = recipe.schedule.patience
        callbacks.append(
            StopWithoutProgress(schedule=schedule, watch=watch, patience=patience, name=run.name, report=report)
        )
    if len(schedule.cycles) > 1:
        callbacks += [
            BestOfCycle(run, number, schedule=schedule, watch=watch) for number in range(len(schedule.cycles))
        ]
    # Best before last: so the last one knows which was the best when a run goes on from it.
    return [*callbacks, keep(filename="best", monitor=name, mode=mode), keep(filename="last")]


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's greetings off the terminal, and its advice that does not hold here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Batches are decoded by tensorstore's threads; worker processes would only copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Lightning 2.6 on torch 2.14; nothing that a user can mend.
        warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
        # Losses and measures are of the whole batch in every process.
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")
        # While the backbone is frozen there are weights without a gradient, later there are not.
        warnings.filterwarnings("ignore", ".*find_unused_parameters=True was specified.*")
        # The run's folder is ours: it holds the recipe before Lightning comes.
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
