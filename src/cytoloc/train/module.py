"""A network learning: the step, the schedule, and what is measured on the held-out fold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchmetrics.classification import MultilabelF1Score

from cytoloc.errors import TrainingError
from cytoloc.labels import N_LOCATIONS
from cytoloc.models.network import Network
from cytoloc.train.data import Batch, Fields, loader

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits and targets, both ``(n, 28)``, to one number."""


class Augment(Protocol):
    """Changes a batch of pictures at random without changing what they show."""

    def __call__(self, fields: Tensor, /, *, generator: torch.Generator) -> Tensor:
        """Return uint8 of the same shape as ``fields``, ``(n, 4, size, size)``."""


class Learner(lightning.LightningModule):
    """Trains a network on fields, and measures it on held-out ones after each epoch.

    Whatever is random in a step is seeded by the recipe's seed and the numbers of epoch and step alone, so a run that
    was stopped and resumed ends like one that was not.
    """

    def __init__(
        self,
        network: Network,
        train: Fields,
        held_out: Fields,
        *,
        loss: Loss,
        augment: Augment,
        batch_size: int,
        frozen_epochs: int,
        epochs: int,
        learning_rate: float,
        weight_decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.train_fields = train
        self.held_out_fields = held_out
        self.loss = loss
        self.augment = augment
        self.batch_size = batch_size
        self.frozen_epochs = frozen_epochs
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.seed = seed
        self.f1 = MultilabelF1Score(N_LOCATIONS, average="macro", threshold=0.5)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this epoch's batches; called anew every epoch."""
        return loader(self.train_fields, batch_size=self.batch_size, shuffle_seed=self._seed_of(0))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the held-out batches."""
        return loader(self.held_out_fields, batch_size=self.batch_size, shuffle_seed=None)

    def on_train_epoch_start(self) -> None:
        """Freeze or free the backbone; as in fastai, frozen batch norms go on adapting."""
        frozen = self.current_epoch < self.frozen_epochs
        self.network.backbone.requires_grad_(not frozen)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of a batch."""
        pixels, targets = batch
        torch.manual_seed(self._seed_of(1, index))
        pixels = self.augment(pixels, generator=torch.default_generator)
        loss = self.loss(self.network(pixels), targets)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss.item()} in epoch {self.current_epoch + 1}, step {self.global_step + 1}.",
                way_out="Lower schedule.learning_rate, or look for broken pictures with `cytoloc info --check`.",
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(pixels))
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Measure loss and macro F1 at threshold .5 on a held-out batch."""
        pixels, targets = batch
        logits = self.network(pixels)
        self.f1(logits.sigmoid(), targets.int())
        self.log("val_loss", self.loss(logits, targets), batch_size=len(pixels))
        self.log("val_macro_f1", self.f1, batch_size=len(pixels))

    def configure_optimizers(self) -> Any:
        """Return AdamW with the one-cycle schedule of :func:`rate_factor`."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        steps = len(self.train_dataloader())
        frozen, cycle = self.frozen_epochs * steps, self.epochs * steps
        rate = LambdaLR(optimizer, lambda step: rate_factor(step, frozen=frozen, cycle=cycle))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def _seed_of(self, *purpose: int) -> int:
        sequence = np.random.SeedSequence([self.seed, self.current_epoch, *purpose])
        return int(sequence.generate_state(1, np.uint32)[0])


def rate_factor(step: int, *, frozen: int, cycle: int, rise: float = 0.3, start: float = 1 / 25) -> float:
    """Return what the highest learning rate is multiplied by at a step.

    While the backbone is frozen it is 1; then comes one cycle (Smith 2018): along cosines it rises from ``start`` to 1
    in the first ``rise`` of the steps and falls to nearly 0 at the last.

    >>> [round(rate_factor(step, frozen=2, cycle=10), 3) for step in (0, 2, 5, 11)]
    [1.0, 0.04, 1.0, 0.05]
    """
    if step < frozen:
        return 1.0
    progress = min(1.0, (step - frozen) / cycle)
    if progress < rise:
        return start + (1 - start) * (1 - math.cos(math.pi * progress / rise)) / 2
    return (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) / 2
