"""SubCell: vision transformers for images of single cells, with ten classifiers (Gupta et al., 2024).

Everything but the numbers comes from timm. The shapes of the tensors state the size of the network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.errors import WeightsError
from cytoloc.models.network import Network, Normalize
from cytoloc.models.state_files import State

BACKBONE: Final = "subcell"
"""The name of the backbone in bundles."""

PATCH_PX: Final = 16

_HEAD_WIDTH: Final = 64
"""Width of an attention head of the transformer."""

_EPSILON: Final = 1e-6

_LAYERS: Final = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""The names of the parts of a layer in timm, and in the files of the authors."""


class NormalizeJointly(Normalize):
    """Scale each image to 0 to 1 by the minimum and maximum of all its channels together, as SubCell was trained.

    Scaling each channel by itself, as a later version of the authors' prediction script does, changes predictions.
    """

    def __init__(self, channels: int) -> None:
        super().__init__([0.0] * channels, [1.0] * channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return normalized pixels, float32 of the shape of ``pixels``, which are uint8 ``(n, channels, h, w)``."""
        values = pixels.to(self.mean.dtype)
        low, high = values.amin(dim=(1, 2, 3), keepdim=True), values.amax(dim=(1, 2, 3), keepdim=True)
        return (values - low) / (high - low + _EPSILON)


class GatedPool(nn.Module):
    """Attention pooling over all tokens, the class token included, with a gate (Ilse et al., 2018) and two heads."""

    def __init__(self, width: int, units: int, heads: int) -> None:
        super().__init__()
        self.v, self.u, self.scores = nn.Linear(width, units), nn.Linear(width, units), nn.Linear(units, heads)

    def attention(self, tokens: Tensor) -> Tensor:
        """Return the weight of each token in each head, shape ``(n, heads, tokens)``."""
        gated = self.v(tokens).tanh() * nn.functional.gelu(self.u(tokens))
        weights: Tensor = self.scores(gated).transpose(1, 2).softmax(dim=2)
        return weights

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the pooled features, shape ``(n, heads * width)``."""
        pooled: Tensor = (self.attention(tokens) @ tokens).flatten(1)
        return pooled


class SubCellBackbone(nn.Module):
    """A vision transformer with gated pooling. Its feature map is the embedding, at one place."""

    def __init__(self, body: VisionTransformer, pool: GatedPool) -> None:
        super().__init__()
        self.body = body
        self.pool = pool

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the embeddings, shape ``(n, features, 1, 1)``."""
        embedded: Tensor = self.pool(self.body.forward_features(pixels))
        return embedded[:, :, None, None]

    def attention_maps(self, pixels: Tensor) -> Tensor:
        """Return where the network looks.

        Args:
            pixels: Normalized images, shape ``(n, channels, h, w)``.

        Returns:
            The weight of each patch in each head, shape ``(n, heads, h / 16, w / 16)``. The weights of an image sum to
            less than 1, because the class token has a weight too.
        """
        weights = self.pool.attention(self.body.forward_features(pixels))[:, :, 1:]
        height, width = (edge // PATCH_PX for edge in pixels.shape[2:])
        return weights.reshape(len(weights), -1, height, width)


class AveragedHeads(nn.Module):
    """Several classifiers whose probabilities are averaged. The logits are those of the mean probabilities."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], count: int) -> None:
        super().__init__()
        (hidden, features), (inner, _), (classes, _) = shapes
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(features, hidden),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(hidden, inner),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(inner, classes),
            )
            for _ in range(count)
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the logits."""
        features = feature_map.flatten(1)
        logits = torch.stack([head(features) for head in self.heads])
        # The mean of probabilities and of their complements, so that extreme logits stay exact. `-softplus(-x)` is the
        # logarithm of the sigmoid.
        softplus = nn.functional.softplus
        return _log_mean_exp(-softplus(-logits)) - _log_mean_exp(-softplus(logits))


def _log_mean_exp(values: Tensor) -> Tensor:
    """Return the logarithm of the mean of ``exp(values)`` over the first dimension.

    ``torch.logsumexp`` becomes an operation of ONNX that OpenVINO computes over all dimensions.
    """
    highest = values.amax(dim=0)
    return highest + (values - highest).exp().mean(dim=0).log()


def empty_network(state: Mapping[str, Tensor]) -> Network:
    """Return a network with the shapes of a state dict, without its values.

    Args:
        state: The state dict of such a network.

    Returns:
        The network.
    """
    width, channels = state["backbone.body.patch_embed.proj.weight"].shape[:2]
    depth = len({name.split(".")[3] for name in state if name.startswith("backbone.body.blocks.")})
    side = math.isqrt(state["backbone.body.pos_embed"].shape[1] - 1)
    units = state["backbone.pool.v.weight"].shape[0]
    body = VisionTransformer(
        img_size=side * PATCH_PX,
        patch_size=PATCH_PX,
        in_chans=channels,
        num_classes=0,
        global_pool="",
        embed_dim=width,
        depth=depth,
        num_heads=width // _HEAD_WIDTH,
        mlp_ratio=state["backbone.body.blocks.0.mlp.fc1.weight"].shape[0] / width,
        norm_layer=partial(nn.LayerNorm, eps=1e-12),
    )
    pool = GatedPool(width, units, state["backbone.pool.scores.weight"].shape[0])
    count = len({name.split(".")[2] for name in state if name.startswith("head.heads.")})
    shapes = [tuple(state[f"head.heads.0.{layer}.weight"].shape) for layer in (0, 3, 6)]
    return Network(NormalizeJointly(channels), SubCellBackbone(body, pool), AveragedHeads(shapes, count))


def network_of_state(state: State) -> Network:
    """Return the network of a state dict, as a bundle stores it.

    Args:
        state: The tensors.

    Returns:
        The network.
    """
    network = empty_network(state)
    network.load_state_dict(state)
    return network.eval()


def network_of_files(encoder: State, heads: Sequence[State], *, size: int, called: str) -> Network:
    """Return the network of the files of the authors.

    Args:
        encoder: The tensors of the encoder file.
        heads: The tensors of each classifier file.
        size: Edge length of the images, in pixels. Positions are interpolated to it as the authors do.
        called: The encoder file, for messages.

    Returns:
        The network.

    Raises:
        WeightsError: If tensors are missing, left over, of another shape, or not finite.
    """
    left = dict(encoder)

    def take(name: str) -> Tensor:
        """Return a tensor and remove it from those that are left."""
        if name not in left:
            raise WeightsError(f"{called} has no tensor {name}.", hint="Give an encoder file of SubCell.")
        return left.pop(name)

    state: dict[str, Tensor] = {
        "backbone.body.cls_token": take("encoder.embeddings.cls_token"),
        "backbone.body.pos_embed": _positions(take("encoder.embeddings.position_embeddings"), size // PATCH_PX),
    }
    for kind in ("weight", "bias"):
        state[f"backbone.body.patch_embed.proj.{kind}"] = take(f"encoder.embeddings.patch_embeddings.projection.{kind}")
        state[f"backbone.body.norm.{kind}"] = take(f"encoder.layernorm.{kind}")
        for own, theirs in (("v", "attention_v.1"), ("u", "attention_u.1"), ("scores", "attention")):
            state[f"backbone.pool.{own}.{kind}"] = take(f"pool_model.{theirs}.{kind}")
    depth = len({name.split(".")[3] for name in encoder if name.startswith("encoder.encoder.layer.")})
    for number in range(depth):
        before, after = f"encoder.encoder.layer.{number}", f"backbone.body.blocks.{number}"
        for kind in ("weight", "bias"):
            parts = [take(f"{before}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")]
            state[f"{after}.attn.qkv.{kind}"] = torch.cat(parts)
            for own, theirs in _LAYERS.items():
                state[f"{after}.{own}.{kind}"] = take(f"{before}.{theirs}.{kind}")
    if left:
        raise WeightsError(
            f"{called} has {len(left)} tensors that SubCell does not have, such as {min(left)}.",
            hint="Give an encoder file of SubCell.",
        )
    for number, head in enumerate(heads):
        wanted = {f"{layer}.{kind}" for layer in (0, 3, 6) for kind in ("weight", "bias")}
        if set(head) != wanted:
            odd = min(set(head) ^ wanted)
            raise WeightsError(
                f"Classifier {number + 1} is not one of SubCell: the tensor {odd} is missing or left over.",
                hint="Give the classifier files of the same channels and encoder.",
            )
        state |= {f"head.heads.{number}.{name}": value for name, value in head.items()}
    return _checked(state, called=called)


def _checked(state: dict[str, Tensor], *, called: str) -> Network:
    """Return the network of a state dict, whose shapes must agree and whose values must be finite."""
    bad = next((name for name, value in state.items() if not torch.isfinite(value).all()), None)
    if bad:
        raise WeightsError(
            f"{called} is damaged: the tensor {bad} has values that are not finite.",
            hint="Get the file again from its source.",
        )
    network = empty_network(state)
    own = network.state_dict()
    for name, value in state.items():
        if own[name].shape != value.shape:
            raise WeightsError(
                f"The tensor {name} has the shape {tuple(value.shape)} instead of {tuple(own[name].shape)}.",
                hint="Give the encoder and classifiers of the same channels.",
            )
    network.load_state_dict({**own, **{name: value.float() for name, value in state.items()}})
    return network.eval()


def _positions(positions: Tensor, side: int) -> Tensor:
    """Return positions for another number of patches per edge: bicubic, without antialiasing, as the authors do."""
    have = math.isqrt(positions.shape[1] - 1)
    if have == side:
        return positions
    grid = positions[:, 1:].reshape(1, have, have, -1).permute(0, 3, 1, 2)
    scaled = nn.functional.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], scaled.permute(0, 2, 3, 1).reshape(1, side * side, -1)], dim=1)


def attention_maps(network: Any, images: UInt8Array) -> Float32Array:
    """Return where a SubCell network looks in images.

    Args:
        network: The network.
        images: uint8 of shape ``(n, channels, h, w)``.

    Returns:
        The weight of each patch in each head, float32 of shape ``(n, heads, h / 16, w / 16)``.

    Raises:
        WeightsError: If the network is not a SubCell network.
    """
    if not isinstance(network.backbone, SubCellBackbone):
        raise WeightsError("Only SubCell networks have attention maps.", hint="Adopt one with `cytoloc adopt subcell`.")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(next(network.parameters()).device)
    with torch.inference_mode():
        found = network.backbone.attention_maps(network.normalize(pixels))
    return np.asarray(found.float().cpu().numpy(), np.float32)
