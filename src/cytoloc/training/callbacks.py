"""Lightning callbacks of a run: checks, log, progress bar, early stopping and checkpoints."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

from cytoloc.errors import FormatError, TrainingError, first_line
from cytoloc.training.distributed import all_gather_object
from cytoloc.training.schedule import Schedule, expected_end, is_better, seconds_left

WATCHED: Final = {"loss": ("val_loss", "min"), "macro_f1": ("val_macro_f1", "max")}
"""For each value of ``select.watch``: its column in the log, and which direction is better."""

LOG_COLUMNS: Final = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_macro_f1",
    "learning_rate",
    "images_per_second",
    "data_wait",
    "seconds",
)
"""Columns of ``log.csv``, before the columns of custom metrics. ``learning_rate`` is the highest of the epoch,
``data_wait`` the share of training time spent waiting for images."""

LAST: Final = "last.ckpt"
"""The checkpoint of the last epoch, from which a run is resumed."""

LogRows = Sequence[Mapping[str, float]]
"""Rows of ``log.csv``, one per epoch."""


class SameStartCheck(lightning.Callback):
    """Raise if processes start differently, because they would wait for each other or train different networks."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self.start = dict(start)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Compare the start values of all processes.

        Raises:
            TrainingError: If a process starts differently.
        """
        for rank, other in enumerate(all_gather_object(self.start)):
            different = [key for key, value in self.start.items() if other[key] != value]
            if different:
                raise TrainingError(
                    f"Processes {trainer.global_rank} and {rank} start differently: {', '.join(different)}.",
                    hint="Give all processes the same command, and a folder that all machines share.",
                )


class FiniteCheck(lightning.Callback):
    """Stop a run at the end of an epoch with a loss or weight that is NaN or infinite.

    Losses stay on the device during the epoch, so that no step waits for the device. The check comes before the epoch
    is evaluated or written, so all checkpoints are from earlier epochs.
    """

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Clear the losses of the previous epoch."""
        self.losses.clear()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss, on the device."""
        self.losses.append(outputs["loss"].detach())

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Check the losses and the weights of the epoch.

        Raises:
            TrainingError: If a loss or weight is NaN or infinite.
        """
        losses = torch.stack(self.losses).cpu()
        wrong = (~losses.isfinite()).nonzero()[:, 0].tolist()
        if wrong:
            problem = (
                f"The loss is {losses[wrong[0]].item()} in epoch {trainer.current_epoch + 1}, batch {wrong[0] + 1}."
            )
        else:
            weights = [value for value in pl_module.state_dict().values() if value.is_floating_point()]
            if torch.stack([value.isfinite().all() for value in weights]).all():
                return
            problem = f"A weight is NaN or infinite after epoch {trainer.current_epoch + 1}."
        raise TrainingError(
            problem,
            hint="Lower schedule.learning_rate, with another folder, or check for damaged images with `cytoloc info"
            " --check`.",
        )


class EpochLog(lightning.Callback):
    """Write one row per epoch to ``log.csv``, call ``on_rows`` with all rows, and report a line of text.

    The checkpoint contains the rows, so a resumed run has each epoch once.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        schedule: Schedule,
        report: Callable[[str], None],
        metrics: Sequence[str] = (),
        now: Callable[[], datetime] = datetime.now,
        on_rows: Callable[[LogRows], None] | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.schedule = schedule
        self.report = report
        self.metrics = tuple(metrics)
        self.now = now
        self.on_rows = on_rows
        self.rows: list[dict[str, float]] = []
        self._started = 0.0
        self._trained = 0.0
        self._images = 0
        self._rate = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the timer."""
        self._started = time.perf_counter()
        self._images, self._rate = 0, 0.0

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Record the highest learning rate; it is a number on the host."""
        self._rate = max(self._rate, optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self._images += trainer.world_size * len(batch.images)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the timer of the training part; :class:`FiniteCheck` has waited for the device."""
        self._trained = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add the row of the epoch and report it."""
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            **{name: measured[name] for name in ("train_loss", "val_loss", "val_macro_f1")},
            "learning_rate": self._rate,
            "images_per_second": self._images / self._trained,
            "data_wait": getattr(trainer.train_dataloader, "waited", 0.0) / self._trained,
            "seconds": time.perf_counter() - self._started,
            **{name: measured[name] for name in self.metrics},
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            pl.DataFrame(self.rows, schema=[*LOG_COLUMNS, *self.metrics]).write_csv(self.path)
        if self.on_rows:
            self.on_rows(self.rows)
        self.report(self.line())

    def line(self) -> str:
        """Return the last epoch as a line of text."""
        row, epochs = self.rows[-1], self.schedule.total_epochs
        frozen = row["epoch"] <= self.schedule.frozen_epochs
        took = [row["seconds"] for row in self.rows]
        left = f", {expected_end(seconds_left(self.schedule, took), now=self.now())}" if len(took) < epochs else ""
        return (
            f"{self.name}  epoch {row['epoch']:>2}/{epochs}  train loss {row['train_loss']:.3f}"
            f"  validation loss {row['val_loss']:.3f}  macro F1 {row['val_macro_f1']:.3f} (threshold 0.5)"
            + "".join(f"  {name} {row[name]:.3f}" for name in self.metrics)
            + f"  {row['images_per_second']:.0f} images/s{', backbone frozen' if frozen else ''},"
            f" {row['data_wait']:.1%} waiting for data{left}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of the resumed run."""
        self.rows = list(state_dict["rows"])


class TrainingBar(lightning.Callback):
    """One progress bar over all batches of a run, with the metrics of the last epoch.

    It disappears when the run ends or is stopped.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[None] | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the bar; a resumed run starts where it was stopped."""
        epochs, batches = trainer.max_epochs or 1, int(trainer.num_training_batches)
        self.bar = tqdm(
            total=epochs * batches,
            initial=trainer.current_epoch * batches,
            desc=f"training {self.name}",
            unit=" batches",
            leave=False,
            dynamic_ncols=True,
        )

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by a batch."""
        if self.bar is not None:
            self.bar.update()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Show the metrics of the epoch."""
        if self.bar is not None:
            loss, f1 = (float(trainer.callback_metrics[name]) for name in ("val_loss", "val_macro_f1"))
            self.bar.set_postfix_str(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, validation loss {loss:.3f}, macro F1 {f1:.3f}"
            )

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before an error is printed."""
        self.close()

    def close(self) -> None:
        """Close the bar, if it is shown."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class BestOfCycle(ModelCheckpoint):
    """Save the best weights of one cycle as ``best-cycleN.ckpt``."""

    def __init__(self, folder: Path, number: int, *, schedule: Schedule, watch: str) -> None:
        name, mode = WATCHED[watch]
        super().__init__(
            folder,
            filename=f"best-cycle{number + 1}",
            monitor=name,
            mode=mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.number = number
        self.schedule = schedule

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint, unique for each cycle."""
        return f"{type(self).__name__}{self.number}"

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the weights if the epoch is the best one of the cycle."""
        if self.schedule.cycle_of(trainer.current_epoch) == self.number:
            super().on_train_epoch_end(trainer, pl_module)


class StopWithoutProgress(lightning.Callback):
    """Stop a run after ``schedule.patience`` cycles without improvement.

    The checkpoint contains the state, so a run that was stopped early does not continue when it is resumed.
    """

    def __init__(self, *, schedule: Schedule, watch: str, name: str, report: Callable[[str], None]) -> None:
        self.schedule = schedule
        self.watch = watch
        self.name = name
        self.report = report
        self.best: float | None = None
        self.best_cycle = 0
        self.stopped = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop a resumed run that was stopped early."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compare the epoch with the best one, and stop at the end of a cycle if there was no improvement."""
        epoch, patience = trainer.current_epoch, self.schedule.patience
        cycle = self.schedule.cycle_of(epoch)
        value = float(trainer.callback_metrics[WATCHED[self.watch][0]])
        if is_better(value, self.best, watch=self.watch):
            self.best, self.best_cycle = value, cycle
        if self.schedule.ends_cycle(epoch) and cycle - self.best_cycle >= patience:
            self.stopped = trainer.should_stop = True
            self.report(f"{self.name} stops early: no better {self.watch.replace('_', ' ')} for {patience} cycles.")

    def state_dict(self) -> dict[str, Any]:
        """Return the best value, its cycle, and whether the run was stopped, for the checkpoint."""
        return {"best": self.best, "best_cycle": self.best_cycle, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        self.best, self.best_cycle = state_dict["best"], state_dict["best_cycle"]
        self.stopped = state_dict["stopped"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints to a temporary file that is renamed when it is complete.

    A loaded checkpoint refers to the other checkpoints in its own folder, even if the run has been moved or copied.
    """

    def load_checkpoint(self, path: str | Path, *rest: Any, **named: Any) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            FormatError: If the checkpoint is damaged.
        """
        try:
            checkpoint = super().load_checkpoint(path, *rest, **named)
        # A damaged archive raises different exceptions of pickle, zip and torch.
        except Exception as error:
            raise FormatError(
                f"{path} cannot be loaded: {first_line(error)}.",
                hint="Restore a backup, or remove the file, so that the resumed run starts from the beginning.",
            ) from error
        folder = Path(os.path.realpath(Path(path).parent))

        def moved(known: str) -> str:
            return str(folder / Path(known).name) if known else known

        ours = [state for state in checkpoint["callbacks"].values() if "dirpath" in state]
        # Checkpoints of custom callbacks may be in another folder.
        before = {state["dirpath"] for state in ours if Path(state["best_model_path"]).name == LAST}
        for state in ours:
            if state["dirpath"] in before:
                state["dirpath"] = str(folder)
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = moved(state[key])
                state["best_k_models"] = {moved(name): value for name, value in state["best_k_models"].items()}
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        temporary = Path(f"{path}.part")
        try:
            temporary.write_bytes(buffer.getbuffer())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
