"""What tests of training share: folds of the study, a power cut, and a report that nobody hears."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import pytorch_lightning as lightning
import torch

from cytoloc.curation.folds import make_folds
from cytoloc.dataset.store import Dataset
from cytoloc.training.progress import EpochLog


def quiet(_line: str) -> None:
    """Say nothing."""


@contextmanager
def power_cut(epoch: int) -> Iterator[None]:
    """Stop the training in the block as an epoch begins, counted from 0."""
    begin = EpochLog.on_train_epoch_start

    def stop(log: EpochLog, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if trainer.current_epoch == epoch:
            raise RuntimeError("power cut")
        begin(log, trainer, module)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(EpochLog, "on_train_epoch_start", stop)
        yield


def state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="session")
def folds(study: Dataset) -> pl.DataFrame:
    """Return three folds of the study."""
    return make_folds(study.fields, k=3)
