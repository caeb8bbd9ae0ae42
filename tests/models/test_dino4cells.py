"""Weights of DINO4Cells: exact, and refused if they do not fit."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from cytoloc.channels import CHANNELS
from cytoloc.errors import RecipeError, WeightsError
from cytoloc.models.network import ModelSpec, NormalizeEach, build_network
from cytoloc.models.variants import varied
from cytoloc.predict.engines.choosing import build_engines
from cytoloc.predict.engines.engine import EngineName
from tests.adoption.goldens import drawn_state, waves

SPEC = ModelSpec(
    backbone="vit_tiny_patch16_224",
    head="plain",
    dropout=0.0,
    prior=0.5,
    locations=3,
    channels=CHANNELS,
    mean=(0.0,) * 4,
    std=(1.0,) * 4,
    each=True,
    size=64,
    variant="dino",
)


def test_class_tokens_are_those_of_the_published_network() -> None:
    body = timm.create_model(
        SPEC.backbone, img_size=64, in_chans=4, num_classes=0, global_pool="", dynamic_img_size=True
    )
    body = varied(body, SPEC.backbone, "dino", stages=False).eval()
    body.load_state_dict(drawn_state(body.state_dict()))
    normalize = NormalizeEach([0.0] * 4, [1.0] * 4)
    for size, expected in (
        (64, [-0.221436, 0.854537, 2.682694, -0.285379]),
        (96, [-0.090658, 1.619623, 0.327074, 0.599235]),
    ):
        with torch.inference_mode():
            token = body(normalize(torch.from_numpy(waves(1, 4, size))))[0, 0, :4]
        np.testing.assert_allclose(token, expected, atol=2e-5)


def test_a_checkpoint_gives_its_teacher_or_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    wanted = timm.create_model(SPEC.backbone, in_chans=4, num_classes=0, global_pool="").state_dict()
    state = drawn_state(wanted)
    teacher = {f"module.backbone.{name}": value for name, value in state.items()}
    torch.save({"teacher": {**teacher, "module.head.mlp.0.weight": torch.zeros(2)}, "args": Namespace(patch=16)}, path)
    network = build_network(SPEC, weights=f"adopt:dino4cells:{path}")
    loaded = network.backbone.state_dict()
    assert all(torch.equal(loaded[f"body.{name}"], value) for name, value in state.items())
    for spec, match in (
        (replace(SPEC, backbone="vit_small_patch16_224"), "4 channels, .* width 192, .* has 4 channels, .* width 384"),
        (replace(SPEC, channels=CHANNELS[:2], mean=(0.0,) * 2, std=(1.0,) * 2), "4 channels, .* has 2 channels"),
        (replace(SPEC, each=False), "expect images that are normalized one by one"),
        (replace(SPEC, variant="plain"), "positions of DINO"),
    ):
        with pytest.raises(WeightsError, match=match):
            build_network(spec, weights=f"adopt:dino4cells:{path}")
    torch.save({"teacher": {"conv1.weight": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"another network than vit_tiny.* are missing.* 1 are left over"):
        build_network(SPEC, weights=f"adopt:dino4cells:{path}")
    with pytest.raises(WeightsError, match="'adopt:other' is not a source of weights"):
        build_network(SPEC, weights="adopt:other")
    with pytest.raises(RecipeError, match="variant dino does not exist for the backbone resnet18"):
        build_network(replace(SPEC, backbone="resnet18"))


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_engines_compute_any_number_of_images(engine: EngineName) -> None:
    torch.manual_seed(0)
    network = build_network(SPEC).eval()
    # Three fields are compared with PyTorch.
    (built,) = build_engines([network], engine, device=torch.device("cpu"), precision="float32", size=64)
    assert built(torch.zeros(5, len(SPEC.channels), 64, 64, dtype=torch.uint8)).logits.shape == (5, 3)
