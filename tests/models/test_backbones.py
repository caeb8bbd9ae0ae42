from __future__ import annotations

import copy
import pickle

import pytest
import torch

from cytoloc.choices import HeadName
from cytoloc.errors import RecipeError
from cytoloc.models.backbones import Stages, TokenMap, create_backbone, feature_channels, shaped
from cytoloc.models.network import Network, NormalizeEach, build_network
from cytoloc.models.weights import adapt_first_convolution
from cytoloc.predict.runs import model_spec
from cytoloc.recipes.recipe import load_recipe, recipe_names
from tests.models.nets import spec_of

LAST = {
    "resnet18.tv_in1k": 512,
    "resnet34.tv_in1k": 512,
    "resnet50.tv_in1k": 2048,
    "resnet101.tv_in1k": 2048,
    "legacy_seresnet50": 2048,
    "legacy_seresnext50_32x4d": 2048,
    "legacy_seresnext101_32x4d": 2048,
    "legacy_xception.tf_in1k": 2048,
    "densenet121.tv_in1k": 1024,
    "densenet169.tv_in1k": 1664,
    "inception_v3": 2048,
    "inception_v4": 1536,
    "tf_efficientnet_lite0": 1280,
    "tf_efficientnetv2_b0": 1280,
    "efficientnetv2_rw_t": 1024,
    "convnextv2_atto": 320,
    "vit_tiny_patch16_224": 192,
}
"""Channels of the last feature map of each network of docs/reference/networks.md."""


OWN = ("microtubules", "protein", "nucleus", "er", "actin", "mitochondria")


def network(backbone: str, head: HeadName, *, channels: int = 4, size: int = 64, each: bool = False) -> Network:
    return build_network(spec_of(backbone, head, channels=OWN[:channels], size=size, each=each))


def test_the_nets_of_all_recipes_are_among_them() -> None:
    wanted = {load_recipe(name).model.backbone.partition(".")[0] for name in recipe_names()}
    assert wanted <= {name.partition(".")[0] for name in LAST}


@pytest.mark.parametrize("name", LAST)
def test_every_net_gives_a_map_of_images_with_any_number_of_channels(name: str) -> None:
    with torch.device("meta"):
        body = create_backbone(name, in_channels=5)
    assert feature_channels(name, in_channels=5, sizes=[128], stages=False) == [LAST[name]]
    first = body.state_dict()[f"{body.default_cfg['first_conv']}.weight"]
    assert first.shape[1] == 5


@pytest.mark.parametrize(
    "name", ["resnet18", "legacy_seresnet50", "legacy_xception", "densenet121", "inception_v3", "convnextv2_atto"]
)
def test_convolutional_nets_give_three_stages_from_fine_to_coarse(name: str) -> None:
    channels = feature_channels(name, in_channels=4, sizes=[160], stages=True)
    with torch.device("meta"):
        maps = shaped(create_backbone(name, in_channels=4), name, stages=True).eval()(torch.zeros(1, 4, 160, 160))
    assert [one.shape[1] for one in maps] == channels
    edges = [one.shape[2] for one in maps]
    assert edges == sorted(edges, reverse=True)
    assert edges[0] >= 2 * edges[-1]


def test_stages_are_what_the_net_computes_on_its_way() -> None:
    torch.manual_seed(0)
    body = create_backbone("resnet10t", in_channels=4).eval()
    pixels = torch.randn(2, 4, 64, 64)
    with torch.inference_mode():
        expected = [one.clone() for one in body.forward_intermediates(pixels, intermediates_only=True)[-3:]]
        maps = Stages(body, "resnet10t")(pixels)
    for one, other in zip(maps, expected, strict=True):
        assert torch.allclose(one, other)


def test_tokens_lie_where_their_patches_were() -> None:
    torch.manual_seed(0)
    body = create_backbone("vit_tiny_patch16_224", in_channels=4)
    with torch.inference_mode():
        tokens = body.eval()(torch.ones(1, 4, 48, 32))
        laid = TokenMap(body)(torch.ones(1, 4, 48, 32))
    assert laid.shape == (1, 192, 3, 2)
    # The third row, first column is the patch after two rows of two; one token goes before them all.
    assert torch.equal(laid[0, :, 2, 0], tokens[0, 1 + 4])


def test_maps_with_channels_last_are_turned() -> None:
    assert feature_channels("swin_tiny_patch4_window7_224", in_channels=4, sizes=[224], stages=False) == [768]
    torch.manual_seed(0)
    net = network("mambaout_femto", "multi-stage").eval()
    pixels = torch.randint(0, 256, (2, 4, 64, 96), dtype=torch.uint8)
    seen: dict[int, torch.Tensor] = {}
    stages = net.backbone.get_submodule("body.stages")
    for number in (1, 2, 3):
        stages.get_submodule(str(number)).register_forward_hook(
            lambda _module, _given, made, number=number: seen.update({number: made})
        )
    with torch.inference_mode():
        maps = net.features(pixels)
    assert [tuple(one.shape) for one in maps] == [(2, 96, 8, 12), (2, 192, 4, 6), (2, 288, 2, 3)]
    for number, one in enumerate(maps, start=1):
        assert torch.equal(one[1, :, 1, 2], seen[number][1, 1, 2])
    single = network("mambaout_femto", "attention").eval()
    with torch.inference_mode():
        assert single.features(pixels).shape == (2, 1152, 2, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18.foo", "resnet18.foo cannot be built"),
        ("coat_lite_tiny", "coat_lite_tiny cannot be built"),
        ("mvitv2_tiny", "mvitv2_tiny returns no feature map"),
        ("volo_d1_224", "volo_d1_224 returns no feature map of 384 channels, but"),
    ],
)
def test_nets_that_give_no_map_are_refused(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        feature_channels(name, in_channels=4, sizes=[224], stages=False)


def test_rows_are_not_taken_for_channels() -> None:
    # Its stages are (n, h, w, features), and timm does not say so.
    with pytest.raises(RecipeError, match=r"returns no feature map of .* but \(14, 14, 384\)"):
        feature_channels("volo_d1_224", in_channels=4, sizes=[224], stages=True)


def test_transformers_with_one_number_for_their_patch_are_laid_out_too() -> None:
    assert feature_channels("xcit_nano_12_p16_224", in_channels=4, sizes=[224], stages=False) == [128]


@pytest.mark.parametrize("setting", ["image.progressive=[32, 40]", "image.size=40", "image.field_size=72"])
def test_every_size_that_a_recipe_names_is_tried(setting: str) -> None:
    settings = ["model.backbone=vit_tiny_patch16_224", "model.head=plain", "image.size=64", setting]
    with pytest.raises(RecipeError, match=r"vit_tiny_patch16_224 does not accept images of (40|72) px"):
        build_network(model_spec(load_recipe("quick", overrides=settings), locations=28))


@pytest.mark.parametrize("head", ["plain", "average-max", "attention", "multi-stage"])
def test_every_head_trains_on_a_net(head: HeadName) -> None:
    torch.manual_seed(0)
    net = network("resnet10t", head)
    logits = net(torch.randint(0, 256, (2, 4, 64, 64), dtype=torch.uint8))
    assert logits.shape == (2, 28)
    logits.sum().backward()
    gradients = [value.grad for value in net.head.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_copies_of_a_multi_stage_net_are_independent() -> None:
    net = network("resnet10t", "multi-stage").eval()
    pixels = torch.randint(0, 256, (2, 4, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = net(pixels)
        for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(copied(pixels), expected)
        assert torch.equal(net(pixels), expected)


def test_sizes_and_nets_that_do_not_go_together_are_refused() -> None:
    for name in ("inception_v3", "swin_tiny_patch4_window7_224"):
        with pytest.raises(RecipeError, match=f"{name} does not accept images of 64 px"):
            feature_channels(name, in_channels=4, sizes=[64], stages=False)
    with pytest.raises(RecipeError, match="does not have 3 stages"):
        network("vit_tiny_patch16_224", "multi-stage")


def test_images_normalized_by_themselves_do_not_mind_exposure() -> None:
    pixels = torch.randint(20, 100, (3, 4, 16, 16)).float()
    normalize = NormalizeEach((0.1,) * 4, (0.2,) * 4)
    seen = normalize(pixels)
    assert torch.allclose(seen.mean(dim=(2, 3)), torch.zeros(3, 4), atol=1e-5)
    assert torch.allclose(seen.std(dim=(2, 3), correction=0), torch.ones(3, 4), atol=1e-5)
    assert torch.allclose(normalize(2 * pixels + 7), seen, atol=1e-4)
    assert torch.equal(normalize(torch.zeros(1, 4, 8, 8, dtype=torch.uint8)), torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_scaled_planes_see_a_gray_image_as_before(channels: int) -> None:
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    if channels == 4:
        wide = adapt_first_convolution(weight, OWN[:4], new_planes="mean")
        assert torch.allclose(wide[:, :3], 0.75 * weight)
        assert torch.allclose(wide[:, 3], 0.25 * weight.sum(dim=1))
    copied = adapt_first_convolution(weight, OWN[:channels])
    assert copied.shape == (5, channels, 3, 3)
    assert torch.equal(copied[:, : min(3, channels)], weight[:, : min(3, channels)])
    assert torch.equal(adapt_first_convolution(weight, ["nucleus", "protein"]), weight[:, [2, 1]])
    if channels >= 3:
        scaled = adapt_first_convolution(weight, OWN[:channels], new_planes="mean")
        assert torch.allclose(scaled.sum(dim=1), weight.sum(dim=1))
