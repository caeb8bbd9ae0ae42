"""A whole model as one module: uint8 pixels in, calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from cytoloc.decide.calibration import Calibration
from cytoloc.decide.decision import Decision
from cytoloc.decide.ensembles import FittedStack
from cytoloc.decide.inputs import LEAST_PROBABILITY, Floats
from cytoloc.errors import ExportError
from cytoloc.models.network import Network, field_logits
from cytoloc.predict.tta import TTA_VIEWS, dihedral

OUTPUT: Final = "probabilities"
"""The name of the output of an exported graph. The input is ``pixels``."""


class Pipeline(nn.Module):
    """The networks of a model, test-time augmentation, their mean probabilities, and the calibration of a decision.

    Args:
        networks: The networks.
        decision: A decision with one member. None: the probabilities are not calibrated.
        tta: Number of test-time augmentation views.

    Raises:
        ExportError: If the decision has a calibration that is not exported.
    """

    def __init__(self, networks: Sequence[Network], decision: Decision | None, *, tta: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.views = TTA_VIEWS[tta]
        self.after = nn.Sequential()
        if decision is not None:
            ensemble, calibration = decision.probability_model.ensemble, decision.probability_model.calibration
            if ensemble.quantiles is not None:
                raise ExportError(
                    "A decision that combines ranks cannot be exported.",
                    hint="Fit the decision with another ensemble, or export without a decision.",
                )
            # Means of one member do not change it.
            if ensemble.stack is not None:
                self.after.append(_Stack(ensemble.stack))
            if calibration.kind != "none":
                self.after.append(_Isotonic(calibration) if calibration.steps else _Curves(calibration.curves))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probabilities of fields, which are uint8 of shape ``(n, channels, size, size)``."""
        views = [dihedral(pixels, view) for view in self.views]
        each = []
        for network in self.networks:
            logits = torch.stack([field_logits(cast(Network, network), view) for view in views]).mean(dim=0)
            each.append(torch.sigmoid(logits))
        probabilities: Tensor = self.after(torch.stack(each).mean(dim=0))
        return probabilities


class _Curves(nn.Module):
    """The curves of a calibration; see :class:`cytoloc.decide.calibration.Calibration`."""

    def __init__(self, curves: Floats) -> None:
        super().__init__()
        self.register_buffer("curves", torch.tensor(curves, dtype=torch.float32))

    def forward(self, scores: Tensor) -> Tensor:
        clipped = scores.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        start, rise, fall = self.get_buffer("curves").unbind(dim=1)
        return torch.sigmoid(start + rise * clipped.log() - fall * torch.log1p(-clipped))


class _Isotonic(nn.Module):
    """Isotonic curves, averaged with smooth curves by a weight per class."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.smooth = _Curves(calibration.curves)
        longest = max(len(places) for places, _, _ in calibration.steps)
        starts, widths, slopes = (np.zeros((len(calibration.steps), longest)) for _ in range(3))
        for i, (places, heights, _) in enumerate(calibration.steps):
            width = np.diff(places)
            starts[i, : len(width)], widths[i, : len(width)] = places[:-1], width
            slopes[i, : len(width)] = np.diff(heights) / np.maximum(width, 1e-12)
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.float32))
        self.register_buffer("widths", torch.tensor(widths, dtype=torch.float32))
        self.register_buffer("slopes", torch.tensor(slopes, dtype=torch.float32))
        lowest = [heights[0] for _, heights, _ in calibration.steps]
        self.register_buffer("lowest", torch.tensor(lowest, dtype=torch.float32))
        self.register_buffer("weights", torch.tensor([one[2] for one in calibration.steps], dtype=torch.float32))

    def forward(self, scores: Tensor) -> Tensor:
        widths = self.get_buffer("widths")
        # A piecewise linear curve is the sum of its pieces, each clipped to its width.
        along = torch.minimum((scores[:, :, None] - self.get_buffer("starts")).clamp(min=0), widths)
        heights = self.get_buffer("lowest") + (along * self.get_buffer("slopes")).sum(dim=2)
        weights = self.get_buffer("weights")
        smooth: Tensor = self.smooth(scores)
        return weights * heights + (1 - weights) * smooth


class _Stack(nn.Module):
    """A stack of one member; see :class:`cytoloc.decide.ensembles.FittedStack`."""

    def __init__(self, stack: FittedStack) -> None:
        super().__init__()
        locations = len(stack.own_center)
        coefficients = np.asarray(stack.shrunk.coefficients)
        # The coefficients of a class: 1, its own logit, its two features, and the logits of the other classes.
        mixing = np.zeros((locations, locations))
        for i in range(locations):
            mixing[i, np.arange(locations) != i] = coefficients[i, 4:]
            mixing[i, i] = coefficients[i, 1]
        values = {
            "center": stack.center,
            "std": stack.std,
            "shared": stack.shared.weights,
            "intercepts": stack.shared.intercepts,
            "own_center": stack.own_center,
            "own_std": stack.own_std,
            "constant": coefficients[:, 0],
            "of_features": coefficients[:, 2:4],
            "mixing": mixing,
        }
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(np.asarray(value), dtype=torch.float32))

    def forward(self, scores: Tensor) -> Tensor:
        clipped = scores.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        features = torch.stack([torch.logit(clipped), scores], dim=2)
        scaled = (features - self.get_buffer("center")) / self.get_buffer("std")
        logits = (scaled * self.get_buffer("shared")).sum(dim=2) + self.get_buffer("intercepts")
        own = (logits - self.get_buffer("own_center")) / self.get_buffer("own_std")
        added = self.get_buffer("constant") + own @ self.get_buffer("mixing").T
        added = added + (scaled * self.get_buffer("of_features")).sum(dim=2)
        return torch.sigmoid(logits + added)
