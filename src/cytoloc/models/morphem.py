"""MorphEm: a vision transformer for single channels, trained on CHAMMI-75 without labels (CaicedoLab)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cytoloc.errors import WeightsError, first_line
from cytoloc.models.dino4cells import refuse_other_transformer
from cytoloc.models.state_files import State, as_state, read_checkpoint

SOURCE: Final = "morphem:"
"""The beginning of ``NAME`` in ``adopt:NAME`` for these weights."""

ONE_CHANNEL: Final = ("any channel",)
"""The input of a backbone that sees each channel by itself."""

_UNUSED: Final = ("head.", "dino_head.", "mask_token")
"""Tensors that were needed for training only."""


class ChannelBag(nn.Module):
    """A backbone for one channel, which sees each channel of an image by itself ("bag of channels").

    Its feature map has the features of all channels, side by side in their order.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the feature map, shape ``(n, channels * features, h, w)``."""
        maps: Tensor = self.body(pixels.flatten(0, 1).unsqueeze(1))
        return torch.unflatten(maps, 0, (-1, pixels.shape[1])).flatten(1, 2)


def read_morphem(path: Path, wanted: State, *, backbone: str) -> State:
    """Read the weights of MorphEm.

    Args:
        path: The file of the authors, ``model.safetensors``, or a checkpoint of their training.
        wanted: The tensors of the backbone.
        backbone: Its timm name, for messages.

    Returns:
        The weights.

    Raises:
        WeightsError: If the file does not exist, is damaged, contains code, or has another network.
    """
    if path.suffix == ".safetensors":
        try:
            named: State = safetensors.torch.load_file(path)
        except FileNotFoundError:
            raise WeightsError(f"The weights file {path} does not exist.", hint="Check model.weights.") from None
        except (OSError, safetensors.SafetensorError) as error:
            raise WeightsError(
                f"{path} cannot be read as safetensors: {first_line(error)}.", hint="Get the file again."
            ) from error
    else:
        content = read_checkpoint(path)
        named = as_state(content.get("teacher", content) if isinstance(content, dict) else content, path)
    state: State = {}
    for name, value in named.items():
        for prefix in ("module.", "model.", "backbone."):
            name = name.removeprefix(prefix)
        if not name.startswith(_UNUSED):
            state[name] = value
    refuse_other_transformer(state, wanted, path=path, backbone=backbone)
    return state
