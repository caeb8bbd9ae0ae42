"""A network learning: the step, the optimizer, and what is measured on the held-out fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from torchmetrics.classification import MultilabelF1Score

from cytoloc.errors import TrainingError
from cytoloc.models.losses import Loss
from cytoloc.models.network import Network, features_and_logits
from cytoloc.training.augment import mixup_share
from cytoloc.training.averaging import State, blended, ema_share
from cytoloc.training.data import Batch, Fields, loader
from cytoloc.training.geometry import resized
from cytoloc.training.sampling import Order, shuffled
from cytoloc.training.schedule import Schedule, momentum_at, rate_factor
from cytoloc.training.together import ALONE, Share

FUSED_ON: Final = {"cpu", "cuda"}
"""Devices on which torch updates all weights at once."""


class Augment(Protocol):
    """Changes a batch of images at random without changing what they show."""

    def __call__(self, fields: Tensor, /, *, generator: torch.Generator, share: Share) -> Tensor:
        """Return uint8 images of ``fields``, ``(n, channels, size, size)``, this process's share of a batch."""


@dataclass(frozen=True)
class SecondTask:
    """A head beside the network's own, learnt with it and then forgotten: the antibody's identity.

    Attributes:
        head: From the last feature map to cosines.
        loss: From those and the antibodies' numbers to one number, weighted.
    """

    head: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]


class Learner(lightning.LightningModule):
    """Trains a network on fields, and measures it on held-out ones after each epoch, by the weights to be used later.

    Whatever is random in a step is seeded by the recipe's seed and the numbers of epoch and step alone, so a run that
    was stopped and resumed ends like one that was not. Of several processes that learn together each sees its share of
    a batch; losses and measures are of the whole batch, the same in all of them.
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
        schedule: Schedule,
        seed: int,
        order: Order = shuffled,
        mixup: float = 0.0,
        second: SecondTask | None = None,
        measured: Literal["plain", "ema", "swa"] = "plain",
        compiled: bool = False,
        fused: bool = True,
        share: Share = ALONE,
    ) -> None:
        super().__init__()
        self.network = network
        self.train_fields = train
        self.held_out_fields = held_out
        self.loss = loss
        self.augment = augment
        self.batch_size = batch_size
        self.schedule = schedule
        self.seed = seed
        self.order = order
        self.mixup = mixup
        self.second = second
        self.measured = measured
        # The function, not the module, whose weights so keep their names; each size of images apart, since those of a
        # run are few and known. Heads stay as they are: compiled for a CPU by torch 2.14, the gradient of a map's
        # maximum is no number, since the map is worked out anew and then equals its maximum nowhere.
        self.see = torch.compile(Network.features, dynamic=False) if compiled else Network.features
        self.fused = fused
        self.share = share
        self.second_head = second.head if second else None
        self.ema: State | None = None
        self.mean: State | None = None
        self._own: State | None = None
        self._steps_averaged = 0
        self._steps = (0, 1)
        self.f1 = MultilabelF1Score(train.truth.shape[1], average="macro", threshold=0.5, sync_on_compute=False)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this epoch's batches; called anew every epoch."""
        seed = self._seed_of(0)
        return loader(
            self.train_fields, batch_size=self.batch_size, shuffle_seed=seed, order=self.order, share=self.share
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the held-out batches."""
        return loader(self.held_out_fields, batch_size=self.batch_size, shuffle_seed=None, share=self.share)

    def on_train_epoch_start(self) -> None:
        """Freeze or free the backbone; what frozen batch norms measure goes on adapting, their weights do not."""
        frozen = self.current_epoch < self.schedule.frozen_epochs
        self.network.backbone.requires_grad_(not frozen)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss of a batch."""
        torch.manual_seed(self._seed_of(1, index))
        pixels = self.augment(batch.pixels, generator=torch.default_generator, share=self.share)
        pixels = resized(pixels, self.schedule.size_at(self.current_epoch) or pixels.shape[-1])
        loss = self._loss_of(batch._replace(pixels=pixels))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss.item()} in epoch {self.current_epoch + 1}, step {self.global_step + 1}.",
                hint="Lower schedule.learning_rate, in a run with another --out, or look for broken images with"
                " `cytoloc info --check`.",
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=self.share.of * len(pixels))
        return loss

    def _loss_of(self, batch: Batch) -> Tensor:
        """Return the loss of images, blended in pairs if asked for, plus that of the second task."""
        if not self.mixup:
            return self._both_losses(batch.pixels, [(1.0, batch)])
        share = mixup_share(self.mixup, generator=torch.default_generator)
        order = torch.randperm(self.share.of * len(batch.pixels))
        other = self.share.own(order).to(batch.pixels.device)
        partner = Batch(*(self.share.gathered(part)[other] for part in batch))
        # Losses are blended, not targets: a focal loss asks whether a location is there, and half of one is no answer.
        blend = share * batch.pixels.float() + (1 - share) * partner.pixels.float()
        return self._both_losses(blend, [(share, batch), (1 - share, partner)])

    def _both_losses(self, pixels: Tensor, shares: list[tuple[float, Batch]]) -> Tensor:
        if self.share.of > 1:
            # So that dropout does not leave out the same units of each process's fields.
            torch.manual_seed(torch.initial_seed() + 1 + self.share.rank)
        features, logits = features_and_logits(self.network, pixels, see=self.see)
        with torch.autocast(pixels.device.type, enabled=False):
            logits, gathered = self.share.whole(logits), self.share.gathered
            losses = [share * self.loss(logits, gathered(batch.targets)) for share, batch in shares]
            if self.second:
                cosines = self.second.head(features[-1] if isinstance(features, list) else features)
                cosines = self.share.whole(cosines)
                losses += [share * self.second.loss(cosines, gathered(batch.antibodies)) for share, batch in shares]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total

    def on_train_batch_end(self, *_rest: Any) -> None:
        """Move the moving average, once for each change of the weights."""
        if self.schedule.ema and self.global_step > self._steps_averaged:
            self._steps_averaged = self.global_step
            share = ema_share(self.schedule.ema, self.global_step)
            self.ema = blended(self.ema, self.network.state_dict(), share=share)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Measure loss and macro F1 at threshold .5 on a held-out batch."""
        # Not compiled: the last batch has another size, and compiling for it takes longer than it saves.
        _, logits = features_and_logits(self.network, batch.pixels)
        # Without what fills up an uneven batch.
        count = min(self.batch_size, len(self.held_out_fields) - index * self.batch_size)
        logits, targets = (self.share.gathered(part)[:count] for part in (logits, batch.targets))
        self.f1(logits.sigmoid(), targets.int())
        self.log("val_loss", self.loss(logits, targets), batch_size=count)
        self.log("val_macro_f1", self.f1, batch_size=count)

    def on_validation_epoch_start(self) -> None:
        """Take the weights into the mean of the last epochs, and lend the network the average that is to be measured.

        Before the epochs whose mean is taken, there is none, and the weights themselves are measured.
        """
        place = self.schedule.place_among_last(self.current_epoch)
        if place:
            # The first takes the place of the mean of the cycle before.
            self.mean = blended(self.mean, self.network.state_dict(), share=1 / place)
        lent = {"ema": self.ema, "swa": self.mean if place else None}.get(self.measured)
        if lent is not None:
            self._own = blended(None, self.network.state_dict(), share=1.0)
            self.network.load_state_dict(lent)

    def on_validation_epoch_end(self) -> None:
        """Give it its own weights back."""
        if self._own is not None:
            self.network.load_state_dict(self._own)
            self._own = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the averages."""
        checkpoint["averages"] = {"ema": self.ema, "swa": self.mean, "steps": self._steps_averaged}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take them up again."""
        kept = checkpoint["averages"]
        self.ema, self.mean, self._steps_averaged = kept["ema"], kept["swa"], kept["steps"]

    def configure_optimizers(self) -> Any:
        """Return AdamW with the one-cycle schedule of :func:`rate_factor` and :func:`momentum_at`."""
        schedule = self.schedule
        optimizer = torch.optim.AdamW(
            [*self.network.parameters(), *(self.second_head.parameters() if self.second_head else ())],
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            betas=schedule.betas,
            fused=self.fused and self.device.type in FUSED_ON,
        )
        steps = -(-len(self.train_dataloader()) // schedule.accumulate)
        frozen, cycle = self._steps = schedule.frozen_epochs * steps, schedule.epochs * steps
        rate = LambdaLR(optimizer, lambda step: rate_factor(step, frozen=frozen, cycle=cycle, cycles=schedule.cycles))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set AdamW's first beta, which goes down and up as the rate goes up and down."""
        frozen, cycle = self._steps
        count, ends, (plain, second) = len(self.schedule.cycles), self.schedule.momentum, self.schedule.betas
        first = momentum_at(self.global_step, frozen=frozen, cycle=cycle, cycles=count, ends=ends, plain=plain)
        for group in optimizer.param_groups:
            group["betas"] = (first, second)

    def _seed_of(self, *purpose: int) -> int:
        sequence = np.random.SeedSequence([self.seed, self.current_epoch, *purpose])
        return int(sequence.generate_state(1, np.uint32)[0])
