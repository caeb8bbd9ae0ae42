"""The training loop of a run, by Lightning: its settings, its callbacks, and its errors."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy

from cytoloc.errors import TrainingError, first_line
from cytoloc.training.callbacks import (
    LAST,
    WATCHED,
    AtomicCheckpointIO,
    BestOfCycle,
    EpochLog,
    FiniteCheck,
    LogRows,
    SameStartCheck,
    StopWithoutProgress,
    TrainingBar,
)
from cytoloc.training.distributed import PRECISION, accelerator
from cytoloc.training.module import Learner
from cytoloc.training.options import TrainOptions

PROCESS_TIMEOUT: Final = timedelta(hours=1)
"""Maximum time that a process waits for the others, for example while the first process writes."""


def fit(
    learner: Learner,
    folder: Path,
    *,
    name: str,
    watch: str,
    options: TrainOptions,
    start: Mapping[str, Any],
    on_rows: Callable[[LogRows], None] | None,
) -> None:
    """Train until the schedule ends, from the last checkpoint if there is one.

    Args:
        learner: The network, its data, and its training step.
        folder: The folder of the run.
        name: The name of the run in printed lines.
        watch: The criterion of the best epoch, a key of :data:`~cytoloc.training.callbacks.WATCHED`.
        options: Options of training.
        start: Values that must be equal in all processes.
        on_rows: A function that is called with all rows of the log after each epoch.
    """
    schedule, processes = learner.spec.schedule, learner.processes
    checkpoint = folder / LAST if (folder / LAST).exists() else None
    monitor, mode = WATCHED[watch]
    keep = partial(ModelCheckpoint, folder, save_on_train_epoch_end=True, enable_version_counter=False)
    log = EpochLog(
        folder / "log.csv",
        name=name,
        schedule=schedule,
        # A progress bar shows the metrics of each epoch.
        report=(lambda _line: None) if options.progress_bar else options.report,
        metrics=tuple(options.metrics),
        on_rows=on_rows,
    )
    callbacks: list[lightning.Callback] = [
        SameStartCheck({**start, "checkpoint": checkpoint is not None}),
        FiniteCheck(),
        log,
        *options.callbacks,
    ]
    if schedule.patience:
        callbacks.append(StopWithoutProgress(schedule=schedule, watch=watch, name=folder.name, report=options.report))
    if len(schedule.cycles) > 1:
        numbers = range(len(schedule.cycles))
        callbacks += [BestOfCycle(folder, number, schedule=schedule, watch=watch) for number in numbers]
    # The best checkpoint is written before the last one, so that the last one records which epoch was the best.
    callbacks += [keep(filename="best", monitor=monitor, mode=mode), keep(filename="last")]
    callbacks += [TrainingBar(name)] if options.progress_bar else []
    launch: dict[str, Any] = {"devices": 1}
    if processes.strategy is not None:
        launch = {"strategy": processes.strategy, "devices": "auto"}
    elif processes.world_size > 1:
        # Frozen weights have no gradient, so DDP must search for unused parameters.
        ddp = DDPStrategy(find_unused_parameters=True, timeout=PROCESS_TIMEOUT)
        launch = {"strategy": ddp, "devices": processes.per_node, "num_nodes": processes.nodes}
    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=schedule.total_epochs,
            accumulate_grad_batches=schedule.accumulate,
            gradient_clip_val=schedule.clip or None,
            callbacks=callbacks,
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            accelerator=accelerator(options.device),
            precision=PRECISION[learner.spec.compute.precision],
            # Each process reads its own part of each batch.
            use_distributed_sampler=False,
            plugins=[AtomicCheckpointIO(), *processes.plugins],
            **launch,
        )
        try:
            trainer.fit(learner, ckpt_path=checkpoint)
        except SystemExit:
            # Lightning raises SystemExit after Ctrl-C.
            options.report(f"{folder.name} was stopped. Continue it with `resume`.")
            raise KeyboardInterrupt from None
    if options.progress_bar and log.rows:
        options.report(log.line())


@contextmanager
def clear_errors(learner: Learner, *, size: int) -> Iterator[None]:
    """Turn torch's errors about memory, compilation and lost processes into :class:`TrainingError`."""
    compiled = learner.spec.compute.compile
    if compiled:
        # Networks that were compiled for earlier runs count towards a limit of torch.
        torch.compiler.reset()
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError that contains the name of its allocator or of its transport.
        text = str(error)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in text:
            batch, accumulate = learner.spec.schedule.batch_size, learner.spec.schedule.accumulate
            # Batch normalization needs two fields.
            smaller = f"schedule.batch_size={max(2, batch // 2)} and schedule.accumulate={2 * accumulate}"
            raise TrainingError(
                f"A batch of {batch} fields of {size} px does not fit into memory: {first_line(error)}.",
                hint=f"Set {smaller if batch > 2 else 'a smaller image.size or model.backbone'}, with another folder.",
            ) from error
        if learner.processes.world_size > 1 and (
            isinstance(error, torch.distributed.DistError) or "gloo/transport" in text
        ):
            raise TrainingError(
                "Another process that trains this run has ended or cannot be reached.",
                hint="Check its output, and continue with `resume`.",
            ) from error
        if compiled:
            # torch exports this exception in no other module, and importing it takes a second.
            from torch._dynamo.exc import TorchDynamoException

            if isinstance(error, TorchDynamoException):
                raise TrainingError(
                    f"The network cannot be compiled: {first_line(error)}.",
                    hint="Set compute.compile=false, with another folder; or install a C++ compiler (or Triton).",
                ) from error
        raise


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence information from Lightning, and its advice that does not apply here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Threads of tensorstore decode the batches, so worker processes are not needed.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Lightning 2.6 with torch 2.14; users cannot change this.
        warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
        # Losses and metrics are computed on the whole batch in every process.
        warnings.filterwarnings("ignore", ".*sync_dist=True.*")
        # Weights have no gradient only while the backbone is frozen.
        warnings.filterwarnings("ignore", ".*find_unused_parameters=True was specified.*")
        # The folder of the run contains the recipe before Lightning writes to it.
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
