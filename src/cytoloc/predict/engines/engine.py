"""What an engine is, and the engine of PyTorch."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cytoloc.models.devices import Precision, autocast
from cytoloc.models.network import Network, features_and_logits

EngineName = Literal["torch", "openvino", "onnx"]
"""A library that computes a network."""

ModelPrecision = Precision | Literal["int8"]
"""Precision of a model: floating point, or the 8-bit integers of the int8 networks of a bundle."""

PARITY: Final = 1e-4
"""Largest difference between probabilities of two engines."""


class Outputs(NamedTuple):
    """The outputs of a network for a batch of fields.

    Attributes:
        logits: float32 of shape ``(n, locations)``.
        features: The mean of the last feature map over all places, float32 of shape ``(n, features)``.
    """

    logits: Tensor
    features: Tensor


class Engine(Protocol):
    """A network that is ready to compute."""

    @property
    def name(self) -> EngineName:
        """The library."""

    def __call__(self, pixels: Tensor) -> Outputs:
        """Return the outputs for uint8 fields of shape ``(n, channels, size, size)``."""


class PixelsToOutputs(nn.Module):
    """A network with two outputs, logits and features, as engines and exported files have it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the features of fields."""
        maps, logits = features_and_logits(self.network, pixels)
        last = maps[-1] if isinstance(maps, list) else maps
        return logits, last.mean(dim=(2, 3))


class TorchEngine:
    """A network that PyTorch computes on any device, in any precision."""

    name: Final = "torch"

    def __init__(self, network: Network, *, device: torch.device, precision: Precision) -> None:
        self._network = PixelsToOutputs(network)
        self._device = device
        self._precision = precision

    def __call__(self, pixels: Tensor) -> Outputs:
        """Return the outputs for uint8 fields of shape ``(n, channels, size, size)``."""
        with torch.inference_mode(), autocast(self._device, self._precision):
            return Outputs(*(one.float() for one in self._network(pixels.to(self._device, non_blocking=True))))
