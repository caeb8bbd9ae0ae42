"""Models whose batch normalization is adjusted to other images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import cytoloc as cl
from cytoloc.adoption.adjusting import adjust_network
from cytoloc.errors import ModelCaution, SettingsError
from cytoloc.models.network import Network, NormalizeEach, build_network
from cytoloc.predict.bundle import builtin_bundle, open_bundle, write_archive
from cytoloc.predict.bundle_header import DECISION, INPUTS, WEIGHTS, Part
from tests.conftest import Cli


@pytest.fixture(scope="module")
def dark(study: cl.Dataset, tmp_path_factory: pytest.TempPathFactory) -> cl.Dataset:
    """Return a dataset of 50 fields at 128 px that look unlike those that the built-in model was trained on."""
    large = study.read(np.arange(40)).repeat(2, axis=2).repeat(2, axis=3)
    images = np.concatenate([large, large[:10, :, ::-1]])
    images = (255 * (images / 255) ** 2).astype(np.uint8)
    return cl.dataset_from_arrays(
        images,
        out=tmp_path_factory.mktemp("dark") / "dark.dataset",
        ids=[f"d{i}" for i in range(50)],
        channels=study.channels,
    )


def test_means_and_variances_become_those_of_the_images() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
    network = Network(NormalizeEach([0.1] * 2, [0.1] * 2), body, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 8, 8), dtype=np.uint8)
    convolution, layer = body[0], body[1]
    assert isinstance(layer, nn.BatchNorm2d)
    with torch.no_grad():
        seen = convolution(network.normalize(torch.from_numpy(images)))
    variance, mean = torch.var_mean(seen, dim=(0, 2, 3))
    changed = adjust_network(network, images, share=0.25)
    torch.testing.assert_close(changed["backbone.1.running_mean"], 0.25 * mean)
    torch.testing.assert_close(changed["backbone.1.running_var"], 0.25 * variance + 0.75)
    assert set(changed) == {"backbone.1.running_mean", "backbone.1.running_var"}
    assert layer.momentum == 0.1
    assert not any(module.training for module in network.modules())


def test_a_copy_differs_in_batch_normalization_alone_and_knows_the_images(
    dark: cl.Dataset, tmp_path: Path, cli: Cli
) -> None:
    path = tmp_path / "adjusted.cytoloc"
    done = cli("adjust", "builtin", dark.path, "--out", path, "--share", "0.5", "--enlarge", "1.25")
    assert done.code == 0, done.err
    before, after = open_bundle(builtin_bundle()), open_bundle(path)
    assert after.parts[DECISION] == before.parts[DECISION]
    assert "50 fields of dark.dataset (share 0.5)" in after.card
    name = f"members/0/{WEIGHTS}"
    old, new = (safetensors.torch.load(bundle.parts[name]) for bundle in (before, after))
    assert {key: value.dtype for key, value in new.items()} == {key: value.dtype for key, value in old.items()}
    different = {key for key in old if not torch.equal(old[key], new[key])}
    assert different == {key for key in old if key.endswith(("running_mean", "running_var"))}

    assert [bundle.header.members[0].enlarged_px for bundle in (before, after)] == [192, 160]
    assert "enlarges images to 160 px" in after.card
    network = after.network(0).eval()
    pixels = torch.from_numpy(dark.read(np.arange(2)))
    with torch.inference_mode():
        features = network.features(pixels)
    assert isinstance(features, torch.Tensor)
    assert features.shape[-1] == 160 // 32

    marked = {}
    for which in ("builtin", path):
        with pytest.warns(ModelCaution):
            predictions = cl.load(which, engine="torch").predict(dark, tta=1)
        marked[which] = sum(bool(text) for text in predictions.cautions)
    assert marked[path] < 10 < marked["builtin"]


@pytest.mark.parametrize(
    ("share", "fields", "name", "words"),
    [
        (0.0, 50, "a.cytoloc", "`share` is 0"),
        (1.5, 50, "a.cytoloc", "`share` is 1.5"),
        (0.5, 49, "a.cytoloc", "49 fields, but the model needs 50"),
        (0.5, 50, "a.zip", "not a valid name for a bundle"),
    ],
)
def test_what_cannot_be_adjusted_is_refused(
    dark: cl.Dataset, tmp_path: Path, share: float, fields: int, name: str, words: str
) -> None:
    given = dark
    if fields < len(dark):
        given = cl.dataset_from_arrays(
            dark.read(np.arange(fields)),
            out=tmp_path / "few.dataset",
            ids=[f"d{i}" for i in range(fields)],
            channels=dark.channels,
        )
    with pytest.raises(SettingsError, match=words):
        cl.adjust("builtin", given, tmp_path / name, share=share)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(("enlarge", "words"), [(0.9, "`enlarge` is 0.9"), (5.0, "`enlarge` is 5")])
def test_a_factor_out_of_range_is_refused(dark: cl.Dataset, tmp_path: Path, enlarge: float, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        cl.adjust("builtin", dark, tmp_path / "a.cytoloc", enlarge=enlarge)
    with pytest.raises(SettingsError, match="`datasets` is empty"):
        cl.adjust("builtin", [], tmp_path / "a.cytoloc")


def test_a_network_without_batch_normalization_is_refused(dark: cl.Dataset, tmp_path: Path) -> None:
    bundle = open_bundle(builtin_bundle())
    member = bundle.header.members[0].model_copy(
        update={"backbone": "convnext_atto", "head": "plain", "enlarged_px": None}
    )
    header = bundle.header.model_copy(update={"members": [member]})
    state = build_network(header.spec(0)).state_dict()
    parts = {
        **bundle.parts,
        f"members/0/{WEIGHTS}": safetensors.torch.save({k: v.contiguous() for k, v in state.items()}),
    }
    del parts[INPUTS]
    listed = {name: Part.of(content) for name, content in parts.items()}
    write_archive(tmp_path / "other.cytoloc", header.model_copy(update={"parts": listed}), parts)
    with pytest.raises(SettingsError, match="has no batch normalization"):
        cl.adjust(tmp_path / "other.cytoloc", dark, tmp_path / "a.cytoloc")
