"""Training with fastai, with the weights and loss of cytoloc, for the training benchmark."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cytoloc.models.heads import AverageMaxHead
from cytoloc.models.losses import Loss
from cytoloc.models.network import Network


class FastaiSteps:
    """Training steps of fastai's ``vision_learner``, with its head, AdamW, one-cycle schedule and default callbacks.

    Call it with a number of steps; it returns their time in seconds and the loss of the first step. The progress bar
    and validation are disabled.

    Attributes:
        model: fastai's network.

    Args:
        backbone: Name of a convolutional network in timm.
        network: Network with this backbone and an average-max head without dropout, whose weights are copied.
        pixels: Normalized batch.
        targets: Labels, float of shape ``(n, locations)``.
        loss: Loss function.
        device: Device, such as ``cpu``.
    """

    def __init__(
        self, backbone: str, network: Network, *, pixels: Tensor, targets: Tensor, loss: Loss, device: str
    ) -> None:
        with warnings.catch_warnings():
            # fastai 2.8 uses functions that are deprecated in newer versions of torch and pandas.
            warnings.simplefilter("ignore")
            from fastai.data.core import DataLoaders
            from fastai.vision.learner import vision_learner

            self._batches = _Batches((pixels, targets))
            self._learner: Any = vision_learner(
                DataLoaders(self._batches, _Batches(()), device=torch.device(device)),
                backbone,
                n_in=pixels.shape[1],
                n_out=targets.shape[1],
                pretrained=False,
                ps=0.0,
                init=None,
                loss_func=loss,
            )
        self.model: nn.Sequential = self._learner.model
        body: Any = self.model[0]
        body.model.load_state_dict(network.backbone.state_dict())
        _copy_head(network.head, self.model[1])

    def __call__(self, steps: int) -> tuple[float, float]:
        """Return the time of the steps in seconds, and the loss of the first step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from fastai.callback.core import Callback
            from fastai.callback.schedule import Learner

            class Clock(Callback):  # type: ignore[misc]  # fastai publishes no types
                """Callback that measures the time of the steps and the first loss."""

                def before_train(self) -> None:
                    """Start the clock."""
                    self.started = time.perf_counter()

                def after_loss(self) -> None:
                    """Record the first loss."""
                    if self.learn.iter == 0:
                        self.first = self.learn.loss

                def after_train(self) -> None:
                    """Stop the clock when the device has finished all work."""
                    self.first = float(self.first)
                    self.seconds = time.perf_counter() - self.started

            clock: Any = Clock()
            self._batches.repeats = steps
            with self._learner.no_bar(), self._learner.no_logging():
                Learner.fit_one_cycle(self._learner, 1, cbs=[clock])
        return clock.seconds, clock.first


class _Batches:
    """A data loader that repeats one batch, or is empty, with the methods that fastai calls."""

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        self.batch = batch
        self.repeats = 1 if batch else 0

    def __len__(self) -> int:
        return self.repeats

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter([self.batch] * self.repeats)

    def to(self, _device: torch.device) -> None:
        """Do nothing, because the batch is on the device already."""


def _copy_head(ours: nn.Module, theirs: Any) -> None:
    """Copy the weights of a head to fastai's head, which has maxima before averages, and no biases in linear layers."""
    if not isinstance(ours, AverageMaxHead):
        raise TypeError(f"The head must pool by average and maximum, not {type(ours).__name__}.")
    kinds = (nn.Linear, nn.BatchNorm1d)
    layers = [[one for one in head.modules() if isinstance(one, kinds)] for head in (ours, theirs)]
    for one, other in zip(*layers, strict=True):
        other.weight.data = one.weight.data.clone()
        other.bias = nn.Parameter(one.bias.data.clone())
    # The batch norm before it is untrained, so it is the same for both halves.
    first = next(one for one in layers[1] if isinstance(one, nn.Linear)).weight
    average, maximum = first.data.chunk(2, dim=1)
    first.data = torch.cat([maximum, average], dim=1)
