"""The training step, the optimizer, and the metrics on the validation fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchmetrics.classification import MultilabelF1Score

from cytoloc._typing import BoolArray, Float32Array
from cytoloc.errors import TrainingError
from cytoloc.models.losses import Loss
from cytoloc.models.network import Network, features_and_logits
from cytoloc.models.state_files import State
from cytoloc.recipes.sections import ComputeSection
from cytoloc.training.augment import Augmentation, area_resized, mixup_weight
from cytoloc.training.data import FoldData, LabeledBatch, batch_loader
from cytoloc.training.distributed import SINGLE, Processes
from cytoloc.training.schedule import Schedule, build_scheduler

FUSED_ON: Final = {"cpu", "cuda"}
"""Devices on which torch can update all weights at once."""

CustomAugmentation = Callable[[Tensor, torch.Generator], Tensor]
"""A function from uint8 images of shape ``(n, channels, size, size)`` to images of the same shape, uint8 or float with
intensities from 0 to 255."""

Metric = Callable[[Float32Array, BoolArray], float]
"""A function from probabilities and labels, both of shape ``(n, locations)``, to a number."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Everything that training needs besides the network and the data.

    Attributes:
        schedule: Epochs, learning rates and batches.
        augmentation: The augmentation of the recipe.
        loss: The loss on locations.
        compute: Precision and compilation.
        weights: Which weights are evaluated on the validation fold.
        seed: Random seed.
        custom_augmentation: A custom augmentation, applied after the augmentation of the recipe.
        metrics: Custom metrics of the validation fold.
    """

    schedule: Schedule
    augmentation: Augmentation
    loss: Loss
    compute: ComputeSection
    weights: Literal["plain", "ema", "swa"] = "plain"
    seed: int = 0
    custom_augmentation: CustomAugmentation | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class SecondTask:
    """A second head, which recognizes antibodies during training and is not part of the trained model.

    Attributes:
        head: From the last feature map to cosines.
        loss: From cosines and numbers of antibodies to a weighted loss.
    """

    head: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]


class Learner(lightning.LightningModule):
    """Train a network, and evaluate it on the validation fold after each epoch.

    Random numbers of a step are seeded by the seed of the recipe and the numbers of epoch and step. A resumed run
    therefore ends with the same weights as an uninterrupted one. Each of several processes has its part of a batch;
    losses and metrics are computed on the whole batch in all processes. A step never waits for the device: losses stay
    there until :class:`~cytoloc.training.callbacks.FiniteCheck` reads them at the end of the epoch.
    """

    def __init__(
        self,
        network: Network,
        fold: FoldData,
        spec: TrainingSpec,
        *,
        second: SecondTask | None = None,
        processes: Processes = SINGLE,
    ) -> None:
        super().__init__()
        self.network = network
        self.fold = fold
        self.spec = spec
        self.second = second
        self.second_head = second.head if second else None
        self.processes = processes
        # The function is compiled instead of the module, so that weights keep their names; once per image size, because
        # a run has few. Heads are not compiled, because torch 2.14 computes NaN gradients of a map's maximum on CPUs.
        self.extract = torch.compile(Network.features, dynamic=False) if spec.compute.compile else Network.features
        self.ema: State | None = None
        self.swa: State | None = None
        self._trained_weights: State | None = None
        self._averaged_steps = 0
        self._held_out: list[tuple[Tensor, Tensor]] = []
        # Validation of its arguments would make the host wait for the device.
        self.f1 = MultilabelF1Score(
            fold.train.truth.shape[1], average="macro", threshold=0.5, sync_on_compute=False, validate_args=False
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this epoch. Lightning calls this in every epoch."""
        fields, batch_size = self.fold.train, self.spec.schedule.batch_size
        rows = self.fold.sampling.rows(fields.truth, np.random.default_rng(self._seed(0)))
        pin = self.device.type == "cuda"
        return batch_loader(fields, rows, batch_size=batch_size, processes=self.processes, pin=pin)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the batches of the validation fold."""
        fields, batch_size = self.fold.held_out, self.spec.schedule.batch_size
        pin = self.device.type == "cuda"
        return batch_loader(fields, np.arange(len(fields)), batch_size=batch_size, processes=self.processes, pin=pin)

    def transfer_batch_to_device(self, batch: LabeledBatch, device: torch.device, dataloader_idx: int) -> LabeledBatch:
        """Return a batch on the device. The copy to a CUDA device is asynchronous."""
        return LabeledBatch(*(part.to(device, non_blocking=device.type == "cuda") for part in batch))

    def on_train_epoch_start(self) -> None:
        """Freeze or unfreeze the backbone. Batch normalization still updates its running statistics."""
        frozen = self.current_epoch < self.spec.schedule.frozen_epochs
        self.network.backbone.requires_grad_(not frozen)

    def training_step(self, batch: LabeledBatch, index: int) -> Tensor:
        """Return the loss of a batch."""
        spec, processes = self.spec, self.processes
        torch.manual_seed(self._seed(1, index))
        images = spec.augmentation(batch.images, generator=torch.default_generator, processes=processes)
        if spec.custom_augmentation:
            generator = torch.Generator().manual_seed(self._seed(2, index) + processes.rank)
            changed = spec.custom_augmentation(images, generator)
            if not isinstance(changed, Tensor) or changed.shape != images.shape:
                found = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
                raise TrainingError(
                    f"The custom augmentation returned {found} for images of shape {tuple(images.shape)}.",
                    hint="Return a tensor of the same shape.",
                )
            images = changed
        images = area_resized(images, spec.schedule.size_at(self.current_epoch) or images.shape[-1])
        batch = batch._replace(images=images)

        weighted = [(1.0, batch)]
        if spec.augmentation.mixup:
            weight = mixup_weight(spec.augmentation.mixup, generator=torch.default_generator)
            order = processes.shard(torch.randperm(processes.world_size * len(images)))
            order = order.to(images.device, non_blocking=True)
            partner = LabeledBatch(*(processes.all_gather(part)[order] for part in batch))
            images = weight * images.float() + (1 - weight) * partner.images.float()
            # Losses are blended instead of targets, because a focal loss needs targets of 0 or 1.
            weighted = [(weight, batch), (1 - weight, partner)]

        if processes.world_size > 1:
            # Dropout must not drop the same units in all processes.
            torch.manual_seed(torch.initial_seed() + 1 + processes.rank)
        features, logits = features_and_logits(self.network, images, see=self.extract)
        with torch.autocast(images.device.type, enabled=False):
            logits = processes.all_gather_with_gradient(logits)
            losses = [weight * spec.loss(logits, processes.all_gather(part.targets)) for weight, part in weighted]
            if self.second:
                cosines = self.second.head(features[-1] if isinstance(features, list) else features)
                cosines = processes.all_gather_with_gradient(cosines)
                losses += [
                    weight * self.second.loss(cosines, processes.all_gather(part.antibodies))
                    for weight, part in weighted
                ]
        loss = losses[0]
        for other in losses[1:]:
            loss = loss + other
        if not isinstance(loss, Tensor) or loss.ndim:
            kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"type {type(loss).__name__}"
            raise TrainingError(f"The custom loss returned a value of {kind}.", hint="Return a scalar tensor.")
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=processes.world_size * len(images))
        return loss

    def on_train_batch_end(self, *_rest: Any) -> None:
        """Update the moving average of the weights, once per optimizer step."""
        decay, step = self.spec.schedule.ema, self.global_step
        if decay and step > self._averaged_steps:
            self._averaged_steps = step
            self.ema = averaged(self.ema, self.network.state_dict(), weight=ema_weight(decay, step))

    def on_validation_epoch_start(self) -> None:
        """Update the average over the last epochs, and load the weights to evaluate.

        Before the averaged epochs, the plain weights are evaluated.
        """
        self._held_out.clear()
        position = self.spec.schedule.swa_position(self.current_epoch)
        if position:
            # Position 1 replaces the average of the previous cycle.
            self.swa = averaged(self.swa, self.network.state_dict(), weight=1 / position)
        measured = {"ema": self.ema, "swa": self.swa if position else None}.get(self.spec.weights)
        if measured is not None:
            self._trained_weights = averaged(None, self.network.state_dict(), weight=1.0)
            self.network.load_state_dict(measured)

    def validation_step(self, batch: LabeledBatch, index: int) -> None:
        """Compute loss and macro F1 at threshold 0.5 on a validation batch."""
        # Not compiled, because the last batch has another size, and compiling takes longer than it saves.
        _, logits = features_and_logits(self.network, batch.images)
        # Fields that fill up an uneven batch are ignored.
        batch_size = self.spec.schedule.batch_size
        count = min(batch_size, len(self.fold.held_out) - index * batch_size)
        logits, targets = (self.processes.all_gather(part)[:count] for part in (logits, batch.targets))
        probabilities = logits.sigmoid()
        self.f1(probabilities, targets.int())
        self.log("val_loss", self.spec.loss(logits, targets), batch_size=count)
        self.log("val_macro_f1", self.f1, batch_size=count)
        if self.spec.metrics:
            self._held_out.append((probabilities, targets))

    def on_validation_epoch_end(self) -> None:
        """Compute the custom metrics, and restore the weights that are trained."""
        if self._held_out:
            probabilities, targets = (torch.cat(parts).cpu().numpy() for parts in zip(*self._held_out, strict=True))
            for name, metric in self.spec.metrics.items():
                value = metric(probabilities, targets > 0.5)
                try:
                    number = float(value)
                except (TypeError, ValueError) as error:
                    raise TrainingError(
                        f"The metric {name!r} returned {value!r}, which is not a number.", hint="Return a float."
                    ) from error
                self.log(name, number)
        if self._trained_weights is not None:
            self.network.load_state_dict(self._trained_weights)
            self._trained_weights = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the averages of the weights to a checkpoint."""
        checkpoint["averages"] = {"ema": self.ema, "swa": self.swa, "steps": self._averaged_steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the averages of the weights from a checkpoint."""
        saved = checkpoint["averages"]
        self.ema, self.swa, self._averaged_steps = saved["ema"], saved["swa"], saved["steps"]

    def configure_optimizers(self) -> Any:
        """Return AdamW and the scheduler of :func:`~cytoloc.training.schedule.build_scheduler`."""
        schedule = self.spec.schedule
        # Lightning cannot clip gradients that a fused optimizer unscales itself.
        fused = self.device.type in FUSED_ON and (self.spec.compute.precision == "float32" or not schedule.clip)
        optimizer = torch.optim.AdamW(
            [*self.network.parameters(), *(self.second_head.parameters() if self.second_head else ())],
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            betas=schedule.betas,
            fused=fused,
        )
        steps = -(-len(self.train_dataloader()) // schedule.accumulate)
        scheduler = build_scheduler(optimizer, schedule, steps_per_epoch=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _seed(self, *purpose: int) -> int:
        sequence = np.random.SeedSequence([self.spec.seed, self.current_epoch, *purpose])
        return int(sequence.generate_state(1, np.uint32)[0])


def averaged(average: State | None, weights: State, *, weight: float) -> State:
    """Return an average that is moved towards new weights.

    The tensors of ``average`` are changed in place, all at once, which takes half the time. Integers, such as the batch
    counts of batch normalization, are copied from ``weights``.

    Args:
        average: The average so far; None for a copy of ``weights``.
        weights: The new weights.
        weight: The share of the new weights, from 0 to 1.

    Returns:
        The new average.
    """
    if average is None:
        return {name: value.detach().clone() for name, value in weights.items()}
    # An average from a checkpoint may be on another device.
    moved = {name: average[name].to(value.device) for name, value in weights.items()}
    floats = [name for name, value in weights.items() if value.is_floating_point()]
    move = get_ema_multi_avg_fn(1 - weight)  # type: ignore[no-untyped-call]  # torch gives it no types
    move([moved[name] for name in floats], [weights[name] for name in floats], None)
    return {name: moved[name] if value.is_floating_point() else value.clone() for name, value in weights.items()}


def ema_weight(decay: float, step: int) -> float:
    """Return the weight of new weights in a moving average at a step (from 1): ``1 - decay``, and more at first.

    With a constant high decay the average would consist of the initial weights for a long time, so the decay rises from
    2/11.

    >>> [round(ema_weight(0.999, step), 3) for step in (1, 100, 100_000)]
    [0.818, 0.082, 0.001]
    """
    return 1 - min(decay, (1 + step) / (10 + step))
