"""The networks of HPA-Cell-Segmentation: a U-Net on DPN-92, one for nuclei and one for cells (Lundberg lab)."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cytoloc._typing import Float32Array
from cytoloc.errors import WeightsError
from cytoloc.files import existing
from cytoloc.models.state_files import State, refuse_other_tensors

WIDTHS: Final = (64, 336, 704, 1552, 2688)
"""Number of channels of each stage of DPN-92."""

MULTIPLE_PX: Final = 32
"""The network halves images five times, so their edges must be multiples of this."""

_MEAN: Final = tuple(value / 255 for value in (124, 117, 104))
_STD: Final = 1 / (0.0167 * 255)


class _Block(nn.Module):
    """Doubling of the size, a convolution and ReLU."""

    def __init__(self, features: int, made: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(features, made, 3, padding=1), nn.ReLU())

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the larger feature map."""
        larger: Tensor = self.layer(feature_map)
        return larger


class _Join(nn.Module):
    """Join a feature map of the decoder and one of the encoder, and convolve them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(nn.Conv2d(2 * features, features, 3, padding=1), nn.ReLU())

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """Return the joint feature map."""
        joint: Tensor = self.seq(torch.cat([decoded, encoded], dim=1))
        return joint


class HpaUnet(nn.Module):
    """The network, with the tensor names of its authors."""

    def __init__(self) -> None:
        super().__init__()
        parts: Any = timm.create_model("dpn92", pretrained=False).features
        named = dict(parts.named_children())
        stem = named["conv1_1"]
        stages: list[nn.Module] = [nn.Sequential(stem.conv, stem.bn)]
        for number in range(2, 6):
            blocks = [block for name, block in named.items() if name.startswith(f"conv{number}_")]
            stages.append(nn.Sequential(*([named["conv1_pool"]] if number == 2 else []), *blocks))
        self.encoder_stages = nn.ModuleList(stages)
        self.bottlenecks = nn.ModuleList(_Join(width) for width in reversed(WIDTHS[:-1]))
        self.decoder_stages = nn.ModuleList(
            _Block(have, want) for have, want in zip(WIDTHS[1:], WIDTHS[:-1], strict=True)
        )
        self.last_upsample = _Block(WIDTHS[0], WIDTHS[0])
        self.final = nn.Sequential(nn.Conv2d(WIDTHS[0], 3, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of background, border and inside, for images from 0 to 1, ``(n, 3, h, w)``."""
        mean = torch.tensor(_MEAN, device=images.device).view(1, 3, 1, 1)
        found: Any = (images - mean) / _STD
        encoded = []
        for stage in self.encoder_stages:
            found = stage(found)
            encoded.append(torch.cat(found, dim=1) if isinstance(found, tuple) else found)
        decoded = encoded[-1]
        for number, bottleneck in enumerate(self.bottlenecks):
            decoded = bottleneck(self.decoder_stages[-1 - number](decoded), encoded[-2 - number])
        logits: Tensor = self.final(self.last_upsample(decoded))
        return logits


class _Shell:
    """A stand-in for a class or function in a pickle. It keeps the state and runs nothing."""

    def __init__(self, *_given: Any, **_named: Any) -> None:
        self.content: dict[str, Any] = {}

    def __new__(cls, *_given: Any, **_named: Any) -> _Shell:
        """Return an empty stand-in."""
        made = super().__new__(cls)
        made.content = {}
        return made

    def __setstate__(self, state: Any) -> None:
        """Keep the state of an object."""
        self.content = state if isinstance(state, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep an item of a dict."""
        self.content[key] = value

    def __call__(self, *_given: Any, **_named: Any) -> _Shell:
        """Return a stand-in for the result of a call, which is not made."""
        return _Shell()

    def append(self, _item: Any) -> None:
        """Ignore an item of a list."""

    def extend(self, _items: Any) -> None:
        """Ignore items of a list."""


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors only. Everything else becomes a stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for."""
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
        }
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name)
        return known.get((module, name), _Shell)


def read_module(path: Path) -> State:
    """Read the tensors of a file that contains a whole pickled module, without running its code.

    Args:
        path: The file.

    Returns:
        The tensors by name, as in the state dict of the module. The prefix ``module.`` of parallel networks is removed.

    Raises:
        WeightsError: If the file does not exist, is damaged, or has no tensors.
    """
    existing(path, error=WeightsError, what="weights file")
    reading = SimpleNamespace(
        __name__="pickle",
        Unpickler=_Reader,
        load=lambda stream, **how: _Reader(stream, **how).load(),
    )
    try:
        content = torch.load(path, map_location="cpu", pickle_module=reading, weights_only=False)
    # A damaged archive raises different exceptions of pickle, zip and torch.
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read as weights, because it is damaged or contains something else.",
            hint="Get the file again from its source.",
        ) from error
    state: State = {}

    def collect(module: Any, prefix: str) -> None:
        """Add the tensors of a module and of the modules inside it."""
        inside = module.content if isinstance(module, _Shell) else {}
        for kind in ("_parameters", "_buffers"):
            state.update(
                {f"{prefix}{name}": value for name, value in inside.get(kind, {}).items() if value is not None}
            )
        for name, inner in inside.get("_modules", {}).items():
            collect(inner, prefix if name == "module" else f"{prefix}{name}.")

    collect(content, "")
    if isinstance(content, dict):
        state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{path} has no tensors.", hint="Get the file again from its source.")
    return {name: value.detach() for name, value in state.items()}


class HpaUnetRunner:
    """A network of HPA-Cell-Segmentation with its weights.

    Args:
        weights: The file of the authors.
        device: The device to compute on.

    Raises:
        WeightsError: If the file is missing, damaged, or of another network.
    """

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        state = read_module(weights)
        self._net = HpaUnet()
        refuse_other_tensors(state, self._net.state_dict(), path=weights, what="DPN-Unet")
        self._net.load_state_dict(state)
        self._net.eval().to(device)
        self._device = device

    def __call__(self, planes: Float32Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the probability of the border and of the inside of objects.

        Args:
            planes: Three channels from 0 to 1, float32 of shape ``(3, height, width)``.

        Returns:
            Border and inside, float32 of shape ``(height, width)`` each.
        """
        height, width = planes.shape[1:]
        # A reflected margin, as the authors add it, then up to the next multiple.
        below, right = (MULTIPLE_PX + -edge % MULTIPLE_PX for edge in (height, width))
        padded = np.pad(planes, ((0, 0), (MULTIPLE_PX, below), (MULTIPLE_PX, right)), mode="symmetric")
        with torch.inference_mode():
            found = self._net(torch.from_numpy(padded)[None].to(self._device)).softmax(dim=1)[0].cpu().numpy()
        inner = found[:, MULTIPLE_PX : MULTIPLE_PX + height, MULTIPLE_PX : MULTIPLE_PX + width]
        return inner[1], inner[2]
