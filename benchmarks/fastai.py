"""fastai's own training loop, with cytoloc's weights and loss in it: the peer of ``bench train``."""

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
    """Steps of fastai's ``vision_learner``: its head, its AdamW, its one-cycle, the callbacks that it comes with.

    Call it with a number of steps; it returns the seconds that they took, and the loss of the first one. Its progress
    bar is left out, and there is nothing to validate on.

    Attributes:
        model: fastai's network.

    Args:
        backbone: timm's name of a convolutional network.
        network: Of that backbone, with an average-max head without dropout; its weights are copied.
        pixels: A normalized batch.
        targets: Float ``(n, locations)``.
        loss: What is to become less.
        device: Where all of it happens, such as ``cpu``.
    """

    def __init__(
        self, backbone: str, network: Network, *, pixels: Tensor, targets: Tensor, loss: Loss, device: str
    ) -> None:
        with warnings.catch_warnings():
            # What fastai 2.8 does is deprecated here and there in newer releases of torch and pandas.
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
        """Return the seconds of so many steps, and the loss of the first."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from fastai.callback.core import Callback
            from fastai.callback.schedule import Learner

            class Clock(Callback):  # type: ignore[misc]  # fastai publishes no types
                """Takes the time of the steps alone, and the first loss."""

                def before_train(self) -> None:
                    """Start."""
                    self.started = time.perf_counter()

                def after_loss(self) -> None:
                    """Keep the first loss."""
                    if self.learn.iter == 0:
                        self.first = self.learn.loss

                def after_train(self) -> None:
                    """Stop, when the device has done all that it was given."""
                    self.first = float(self.first)
                    self.seconds = time.perf_counter() - self.started

            clock: Any = Clock()
            self._batches.repeats = steps
            with self._learner.no_bar(), self._learner.no_logging():
                Learner.fit_one_cycle(self._learner, 1, cbs=[clock])
        return clock.seconds, clock.first


class _Batches:
    """A loader that gives one batch again and again, or none: as much of one as fastai asks for."""

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        self.batch = batch
        self.repeats = 1 if batch else 0

    def __len__(self) -> int:
        return self.repeats

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter([self.batch] * self.repeats)

    def to(self, _device: torch.device) -> None:
        """Stay: the batch is where it has to be."""


def _copy_head(ours: nn.Module, theirs: Any) -> None:
    """Copy a head's weights into fastai's, whose pooling puts maxima first and whose linear layers lack biases."""
    if not isinstance(ours, AverageMaxHead):
        raise TypeError(f"fastai's head pools by average and maximum; this is {type(ours).__name__}")
    kinds = (nn.Linear, nn.BatchNorm1d)
    layers = [[one for one in head.modules() if isinstance(one, kinds)] for head in (ours, theirs)]
    for one, other in zip(*layers, strict=True):
        other.weight.data = one.weight.data.clone()
        other.bias = nn.Parameter(one.bias.data.clone())
    # The batch norm before it is the same for both halves: it is untrained.
    first = next(one for one in layers[1] if isinstance(one, nn.Linear)).weight
    average, maximum = first.data.chunk(2, dim=1)
    first.data = torch.cat([maximum, average], dim=1)
