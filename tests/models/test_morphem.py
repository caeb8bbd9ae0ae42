"""MorphEm: each channel by itself, with exact weights that are refused if they do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor
from torch.nn import functional

from cytoloc.channels import CHANNELS
from cytoloc.errors import RecipeError, WeightsError
from cytoloc.models.morphem import ONE_CHANNEL
from cytoloc.models.network import ModelSpec, build_network
from cytoloc.predict.engines.choosing import build_engines
from cytoloc.predict.engines.engine import EngineName
from tests.adoption.goldens import drawn_state, waves

SPEC = ModelSpec(
    backbone="vit_tiny_patch16_224",
    head="plain",
    dropout=0.0,
    prior=0.5,
    locations=3,
    channels=CHANNELS[:2],
    mean=(0.0,) * 2,
    std=(1.0,) * 2,
    each=True,
    size=224,
    variant="channel-bag",
)


def wanted() -> dict[str, Tensor]:
    """Return the tensors of a single-channel backbone, drawn from their names."""
    body = timm.create_model(SPEC.backbone, in_chans=len(ONE_CHANNEL), num_classes=0, global_pool="")
    return drawn_state(body.state_dict())


def tokens_of(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Return the tokens of one channel, as the formulas of vision transformers say, shape ``(tokens, width)``."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        spread, mean = torch.std_mean(value, dim=-1, keepdim=True, correction=0)
        return (value - mean) / (spread**2 + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    patches = pixels.unfold(0, 16, 16).unfold(1, 16, 16).reshape(-1, 256)
    weight = state["patch_embed.proj.weight"].reshape(-1, 256)
    tokens = torch.cat([state["cls_token"][0], patches @ weight.T + state["patch_embed.proj.bias"]])
    tokens = tokens + state["pos_embed"][0]
    for number in range(12):
        name = f"blocks.{number}"
        query, key, value = (
            linear(f"{name}.attn.qkv", norm(f"{name}.norm1", tokens)).reshape(-1, 3, 3, 64).permute(1, 2, 0, 3)
        )
        share = (query @ key.transpose(1, 2) / 8).softmax(dim=2)
        tokens = tokens + linear(f"{name}.attn.proj", (share @ value).transpose(0, 1).reshape(len(tokens), -1))
        inner = functional.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", tokens)))
        tokens = tokens + linear(f"{name}.mlp.fc2", inner)
    return norm("norm", tokens)


def test_features_are_those_of_each_channel_by_itself(tmp_path: Path) -> None:
    path, state = tmp_path / "model.safetensors", wanted()
    safetensors.torch.save_file({**state, "mask_token": torch.zeros(1, 3)}, path)
    network = build_network(SPEC, weights=f"adopt:morphem:{path}").eval()
    images = torch.from_numpy(waves(1, 2, 224))
    with torch.inference_mode():
        maps = network.features(images)
        assert isinstance(maps, Tensor)
        assert maps.shape == (1, 2 * 192, 14, 14)
        for channel in range(2):
            pixels = images[0, channel].float()
            tokens = tokens_of(state, (pixels - pixels.mean()) / pixels.std(correction=0))
            own = maps[0, 192 * channel : 192 * (channel + 1)].flatten(1).T
            torch.testing.assert_close(own, tokens[1:], atol=2e-4, rtol=2e-4)
        assert network(images).shape == (1, 3)
        # Another order of the channels is another order of the features, not other features.
        turned = network.features(images.flip(1))
        assert isinstance(turned, Tensor)
        expected_maps = maps.reshape(1, 2, 192, 14, 14).flip(1).reshape(maps.shape)
        torch.testing.assert_close(turned, expected_maps, atol=1e-5, rtol=1e-5)
    expected = [-1.051568, 0.805778, 0.426534, 1.355563]
    np.testing.assert_allclose(maps[0, [0, 1, 192, 193], 3, 5], expected, atol=2e-4)


def test_files_of_other_networks_and_settings_are_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "model.safetensors", wanted()
    safetensors.torch.save_file({f"model.{name}": value for name, value in state.items()}, path)
    loaded = build_network(SPEC, weights=f"adopt:morphem:{path}").backbone.state_dict()
    assert all(torch.equal(loaded[f"body.body.{name}"], value) for name, value in state.items())
    teacher = tmp_path / "checkpoint.pth"
    named = {f"module.backbone.{name}": value for name, value in state.items()}
    torch.save({"teacher": {**named, "module.head.mlp.0.weight": torch.zeros(2)}}, teacher)
    build_network(SPEC, weights=f"adopt:morphem:{teacher}")
    for spec, match in (
        (replace(SPEC, backbone="vit_small_patch16_224"), "width 192, .* has 1 channels, .* width 384"),
        (replace(SPEC, each=False), "normalized one by one, and a backbone that sees each channel separately"),
        (replace(SPEC, variant="dino"), "MorphEm expect"),
    ):
        with pytest.raises(WeightsError, match=match):
            build_network(spec, weights=f"adopt:morphem:{path}")
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"another network than vit_tiny.* are missing.* 1 are left over"):
        build_network(SPEC, weights=f"adopt:morphem:{path}")
    path.write_bytes(b"something")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        build_network(SPEC, weights=f"adopt:morphem:{path}")
    with pytest.raises(WeightsError, match="does not exist"):
        build_network(SPEC, weights=f"adopt:morphem:{tmp_path / 'none.safetensors'}")
    with pytest.raises(RecipeError, match="variant channel-bag does not exist for the backbone resnet18"):
        build_network(replace(SPEC, backbone="resnet18"))


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_engines_compute_any_number_of_images(engine: EngineName) -> None:
    torch.manual_seed(0)
    network = build_network(SPEC).eval()
    # Three fields are compared with PyTorch.
    (built,) = build_engines([network], engine, device=torch.device("cpu"), precision="float32", size=224)
    assert built(torch.zeros(5, len(SPEC.channels), 224, 224, dtype=torch.uint8)).logits.shape == (5, 3)
