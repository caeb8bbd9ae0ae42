"""Weights of DINO4Cells: vision transformers that were trained on cells without labels."""

from __future__ import annotations

import math
from pathlib import Path
from types import MethodType
from typing import Any, Final

import torch
from torch import Tensor, nn

from cytoloc.errors import WeightsError
from cytoloc.models.state_files import State, as_state, read_checkpoint, refuse_other_tensors

SOURCE: Final = "dino4cells:"
"""The beginning of ``NAME`` in ``adopt:NAME`` for these weights."""


def read_dino4cells(path: Path, wanted: State, *, backbone: str) -> State:
    """Read the weights of the teacher in a checkpoint of DINO4Cells.

    Args:
        path: The checkpoint, or a state dict of the backbone.
        wanted: The tensors of the backbone.
        backbone: Its timm name, for messages.

    Returns:
        The weights.

    Raises:
        WeightsError: If the file is damaged, contains code, or has another network. The message says which one.
    """
    content = read_checkpoint(path)
    named = as_state(content.get("teacher", content) if isinstance(content, dict) else content, path)
    bare = {name.removeprefix("module.").removeprefix("backbone."): value for name, value in named.items()}
    state = {name: value for name, value in bare.items() if not name.startswith("head.")}
    refuse_other_transformer(state, wanted, path=path, backbone=backbone)
    return state


def refuse_other_transformer(state: State, wanted: State, *, path: Path, backbone: str) -> None:
    """Raise unless a state dict has exactly the tensors of a vision transformer.

    Args:
        state: The tensors of the file, by the names of timm.
        wanted: The tensors of the backbone.
        path: The file.
        backbone: The timm name of the backbone.

    Raises:
        WeightsError: If it has other tensors. The message says which network the file has, if it is a transformer.
    """
    if {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= state.keys():
        have, want = _in_words(state), _in_words(wanted)
        if have != want:
            raise WeightsError(
                f"{path} has a vision transformer with {have}, but {backbone} has {want}.",
                hint="Change model.backbone, such as vit_base_patch16_224, or image.channels.",
            )
    refuse_other_tensors(state, wanted, path=path, what=backbone)


def _in_words(state: State) -> str:
    """Return the properties of a vision transformer."""
    _, channels, patch, _ = state["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    width, positions = state["cls_token"].shape[-1], state["pos_embed"].shape[1]
    return f"{channels} channels, patches of {patch} px, width {width}, {depth} blocks and {positions} positions"


def with_dino_positions(body: Any) -> Any:
    """Let a vision transformer of timm interpolate its positions as DINO does, for images of other sizes.

    The two ways differ in the cubic kernel and by a shift, which changes features by about a hundredth.

    Args:
        body: The network, for images of any size.

    Returns:
        The same network.
    """
    body._pos_embed = MethodType(_add_positions, body)
    return body


def _add_positions(body: Any, patches: Tensor) -> Tensor:
    """Return the tokens of patches, shape ``(n, h, w, width)``, with the class token and positions."""
    count, _, _, features = patches.shape
    height, width = (int(edge) for edge in patches.shape[1:3])  # numbers, also while a graph is exported
    first, grid = body.pos_embed[:, :1], body.pos_embed[:, 1:]
    side = math.isqrt(grid.shape[1])
    if (height, width) != (side, side):
        square = grid.reshape(1, side, side, features).permute(0, 3, 1, 2)
        # 0.1 is from the code of DINO. It avoids a floor in the size, and shifts all positions.
        factor = ((height + 0.1) / side, (width + 0.1) / side)
        grid = nn.functional.interpolate(square, scale_factor=factor, mode="bicubic").permute(0, 2, 3, 1)
        grid = grid.reshape(1, -1, features)
    tokens = torch.cat([body.cls_token.expand(count, -1, -1), patches.reshape(count, -1, features)], dim=1)
    placed: Tensor = body.pos_drop(tokens + torch.cat([first, grid], dim=1))
    return placed
