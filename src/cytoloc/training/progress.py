"""What a run writes down while it learns: a line an epoch, on the terminal and in ``log.csv``, and checkpoints."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.plugins.io import TorchCheckpointIO

from cytoloc.errors import FormatError, first_line
from cytoloc.training.ending import ending, seconds_left
from cytoloc.training.schedule import Schedule

COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_macro_f1",
    "learning_rate",
    "images_per_second",
    "data_wait",
    "seconds",
)
"""Columns of ``log.csv``; ``learning_rate`` is the highest of the epoch's steps, ``data_wait`` the
share of the time of training for which it waited for pixels."""


Rows = Sequence[Mapping[str, float]]
"""Rows of ``log.csv``, an epoch each, from the first."""


class EpochLog(lightning.Callback):
    """Keeps one row per epoch in ``log.csv``; rows travel in the checkpoint, so a resumed run has each epoch once."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        schedule: Schedule,
        report: Callable[[str], None],
        now: Callable[[], datetime] = datetime.now,
        keep: Callable[[Rows], None] | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.schedule = schedule
        self.report = report
        self.now = now
        self.keep = keep
        self.rows: list[dict[str, float]] = []
        self._started = 0.0
        self._trained = 0.0
        self._images = 0
        self._rate = 0.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()
        self._images, self._rate = 0, 0.0

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Take note of the rate of a step."""
        self._rate = max(self._rate, float(optimizer.param_groups[0]["lr"]))

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self._images += trainer.world_size * len(batch.pixels)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop the clock of the training part."""
        self._trained = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add the epoch's row and say it."""
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            **{name: measured[name] for name in ("train_loss", "val_loss", "val_macro_f1")},
            "learning_rate": self._rate,
            "images_per_second": self._images / self._trained,
            "data_wait": getattr(trainer.train_dataloader, "waited", 0.0) / self._trained,
            "seconds": time.perf_counter() - self._started,
        }
        self.rows.append(row)
        if trainer.is_global_zero:
            pl.DataFrame(self.rows, schema=list(COLUMNS)).write_csv(self.path)
        if self.keep:
            self.keep(self.rows)
        epochs = self.schedule.total_epochs
        frozen = row["epoch"] <= self.schedule.frozen_epochs
        took = [row["seconds"] for row in self.rows]
        end = f", {ending(seconds_left(self.schedule, took), now=self.now())}" if len(took) < epochs else ""
        self.report(
            f"{self.name}  epoch {row['epoch']:>2}/{epochs}  train loss {row['train_loss']:.3f}"
            f"  held-out loss {row['val_loss']:.3f}  macro F1 at .5 {row['val_macro_f1']:.3f}"
            f"  {row['images_per_second']:.0f} images/s{', the head alone' if frozen else ''},"
            f" {row['data_wait']:.1%} waiting for data{end}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the rows of the run that is resumed."""
        self.rows = list(state_dict["rows"])


class TrainingBar(TQDMProgressBar):
    """A bar over the steps of an epoch; epochs count from 1, and the held-out fold passes without one.

    It stands on the terminal while a run learns, and is gone when the run ends or is stopped.
    """

    def init_train_tqdm(self) -> Tqdm:
        """Return a bar that leaves nothing behind."""
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def on_train_epoch_start(self, trainer: lightning.Trainer, *rest: Any) -> None:
        """Start the bar of an epoch."""
        super().on_train_epoch_start(trainer, *rest)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_exception(self, trainer: lightning.Trainer, *rest: Any) -> None:
        """Take the bar away before anyone says why the run stops."""
        if self._train_progress_bar is not None:
            self.train_progress_bar.close()

    def init_validation_tqdm(self) -> Tqdm:
        """Return a bar that is not shown."""
        bar = super().init_validation_tqdm()
        bar.disable = True
        return bar


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there when whole; a full disk spoils no earlier one.

    One that is read knows the others beside it, wherever the run's folder has been moved or copied to.
    """

    def load_checkpoint(self, path: str | Path, *rest: Any, **named: Any) -> dict[str, Any]:
        """Return the checkpoint at ``path``.

        Raises:
            FormatError: If it is damaged.
        """
        try:
            checkpoint = super().load_checkpoint(path, *rest, **named)
        # A broken archive surfaces as any of several exceptions of pickle, zip and torch.
        except Exception as error:
            raise FormatError(
                f"{path} cannot be loaded: {first_line(error)}",
                hint="Bring back a whole copy of it, or remove it: then --resume begins anew.",
            ) from error
        for state in checkpoint["callbacks"].values():
            if "dirpath" in state:
                state.update(_in_folder(state, os.path.realpath(Path(path).parent)))
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        temporary = Path(f"{path}.part")
        try:
            temporary.write_bytes(buffer.getbuffer())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _in_folder(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return what Lightning's ``ModelCheckpoint`` keeps of paths, all of them in ``folder``."""

    def there(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    paths = {key: there(state[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    return {"dirpath": folder, **paths, "best_k_models": {there(k): v for k, v in state["best_k_models"].items()}}
