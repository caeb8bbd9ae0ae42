"""What happens between one-cycles: the best of each is kept, and a run without progress stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import ModelCheckpoint

from cytoloc.training.schedule import Schedule, is_better

MEASURES: Final = {"loss": ("val_loss", "min"), "macro_f1": ("val_macro_f1", "max")}
"""For each thing to watch: its name in the log, and which way is better."""


class BestOfCycle(ModelCheckpoint):
    """Keeps the best weights of one cycle as ``best-cycleN.ckpt``."""

    def __init__(self, folder: Path, number: int, *, schedule: Schedule, watch: str) -> None:
        name, mode = MEASURES[watch]
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
        """What tells its state in a checkpoint from that of the other cycles."""
        return f"{type(self).__name__}{self.number}"

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the weights if the epoch is the best of the cycle."""
        if self.schedule.cycle_of(trainer.current_epoch) == self.number:
            super().on_train_epoch_end(trainer, pl_module)


class StopWithoutProgress(lightning.Callback):
    """Stops a run after ``patience`` cycles whose best epoch is no better than that of the cycles before them.

    What it has seen travels in the checkpoint, so a run that it stopped is not taken further by a resume.
    """

    def __init__(
        self, *, schedule: Schedule, watch: str, patience: int, name: str, report: Callable[[str], None]
    ) -> None:
        self.schedule = schedule
        self.watch = watch
        self.patience = patience
        self.name = name
        self.report = report
        self.best: float | None = None
        self.best_cycle = 0
        self.stopped = False

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Do not go on with a run that was stopped."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take note of the epoch, and stop after a cycle if progress is too long ago."""
        epoch = trainer.current_epoch
        cycle = self.schedule.cycle_of(epoch)
        value = float(trainer.callback_metrics[MEASURES[self.watch][0]])
        if is_better(value, self.best, watch=self.watch):
            self.best, self.best_cycle = value, cycle
        if self.schedule.ends_cycle(epoch) and cycle - self.best_cycle >= self.patience:
            self.stopped = trainer.should_stop = True
            self.report(f"{self.name} stops: no better {self.watch.replace('_', ' ')} for {self.patience} cycles.")

    def state_dict(self) -> dict[str, Any]:
        """Return what it has seen."""
        return {"best": self.best, "best_cycle": self.best_cycle, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up again."""
        self.best, self.best_cycle = state_dict["best"], state_dict["best_cycle"]
        self.stopped = state_dict["stopped"]
