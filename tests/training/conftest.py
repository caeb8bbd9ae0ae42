"""What tests of training share: folds of the study, a run without output, and a power cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import pytorch_lightning as lightning
import torch

from cytoloc.curation.folds import make_folds
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import write_dataset
from cytoloc.labels.label_set import LabelSet
from cytoloc.recipes.recipe import Recipe, load_recipe
from cytoloc.training.callbacks import EpochLog
from cytoloc.training.module import Learner
from cytoloc.training.options import TrainOptions
from cytoloc.training.run import train

TINY = [
    "image.size=64",
    "image.field_size=0",
    "model.backbone=test_resnet",
    "model.weights=none",
    "select.tta=1",
    "schedule.batch_size=8",
    "schedule.frozen_epochs=0",
    "schedule.epochs=1",
]


EVERYTHING = [
    "image.progressive=[32]",
    "model.head=multi-stage",
    "loss.arcface=0.1",
    "loss.symmetric_lovasz=0.5",
    "loss.macro_f1=0.5",
    "loss.asymmetric=0.1",
    "loss.symmetric_focal=0.1",
    "loss.hard_cross_entropy=0.1",
    "sampling.order=balanced",
    "sampling.mu=0.4",
    "sampling.oversample={hpa28 = {25 = 2}}",
    "augment.mixup=0.4",
    "augment.rotate_degrees=20",
    "augment.tiles=0.5",
    "augment.lighting=0.1",
    "schedule.epochs=2",
    "schedule.cycles=[1.0, 0.5]",
    "schedule.patience=2",
    "schedule.accumulate=2",
    "schedule.clip=1.0",
    "schedule.momentum=[0.95, 0.85]",
    "schedule.ema=0.9",
    "schedule.swa_epochs=2",
    "select.weights=ema",
]


def tiny(*overrides: str, base: str = "quick") -> Recipe:
    return load_recipe(base, overrides=[*TINY, *overrides])


def train_fold(recipe: Recipe, dataset: Dataset, folds: pl.DataFrame, fold: int, *, out: Path, **options: Any) -> Path:
    """Train one run without output, and return its folder; ``options`` are those of ``TrainOptions``."""
    options = {"report": quiet, **options}
    (run,) = train(recipe, dataset, folds, fold=fold, out=out, options=TrainOptions(**options))
    return run.folder


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


def few_of(folds: pl.DataFrame, counts: dict[int, int]) -> pl.DataFrame:
    """Return folds with only so many fields of each."""
    kept = pl.concat(folds.filter(pl.col("fold") == fold).head(count) for fold, count in counts.items())
    return folds.with_columns(pl.when(pl.col("id").is_in(kept["id"].implode())).then("fold"))


def network_of(path: Path) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("network."): value for name, value in state_of(path).items() if name.startswith("network.")
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run_with_losses(
    losses: list[float],
    recipe: Recipe,
    study: Dataset,
    folds: pl.DataFrame,
    out: Path,
    said: list[str],
    *,
    resume: bool = False,
) -> Path:
    """Train while the held-out loss of each epoch is as given."""
    log = Learner.log

    def logged(learner: Learner, name: str, value: Any, **more: Any) -> None:
        known = name in {"val_loss", "val_macro_f1"}
        log(learner, name, losses[learner.current_epoch] if known else value, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "log", logged)
        return train_fold(recipe, study, folds, 1, out=out, resume=resume, report=said.append)


def stop_in(
    epoch: int,
    recipe: Recipe,
    study: Dataset,
    folds: pl.DataFrame,
    out: Path,
    *,
    losses: list[float] | None = None,
) -> None:
    """Train until an epoch begins, counted from 0."""
    with power_cut(epoch):
        if losses is None:
            train_fold(recipe, study, folds, 1, out=out)
        else:
            run_with_losses(losses, recipe, study, folds, out, [])


OWN = LabelSet.from_names(["Cortex", "Nucleus", "Vesicles"], name="mine")


Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*channels: str, label_set: LabelSet = OWN, size: int = 32, name: str = "") -> Dataset:
        rng = np.random.default_rng(0)
        rows = (
            FieldRow(id=f"f{i}", source="test", original_px=size, original_width_px=size, labels=(i % len(label_set),))
            for i in range(9)
        )
        fields = [(row, rng.integers(0, 200, (len(channels), size, size), dtype=np.uint8)) for row in rows]
        path = tmp_path / f"{name or '-'.join(channels)}-{size}.dataset"
        return write_dataset(path, fields, size=size, channels=channels, label_set=label_set, made_by={"command": "t"})

    return make
