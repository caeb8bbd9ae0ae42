from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

import cytoloc as cl
from cytoloc.choices import MapMethod
from cytoloc.errors import ArgumentTypeError, ChannelError, ImageError, SettingsError, TableError
from cytoloc.explain.activation import class_maps
from cytoloc.models.network import ModelSpec, Network, build_network
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import plan_one
from research.maps import structure_and_cells

SPEC = ModelSpec(
    backbone="resnet18", head="average-max", dropout=0.0, prior=0.1, locations=4, channels=("a", "b"), mean=(0.4, 0.4),
    std=(0.2, 0.2), each=False, size=64,
)  # fmt: skip
RNG = np.random.default_rng(0)
PIXELS = torch.from_numpy(RNG.integers(0, 256, (2, 2, 64, 64), dtype=np.uint8))


@pytest.fixture(scope="module")
def model(bundle: Path) -> cl.Model:
    return cl.load(bundle, device="cpu", engine="torch")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> cl.Dataset:
    design = cl.Design(n_fields=8, seed=4, size=128)
    return cl.simulate_dataset(tmp_path_factory.mktemp("explain") / "made.dataset", design)


def spec_with(**changes: Any) -> ModelSpec:
    return ModelSpec(**{**SPEC.__dict__, **changes})


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("resnet18", "plain"),
        ("resnet18", "multi-stage"),
        ("efficientnet_lite0", "attention"),
        ("densenet121", "average-max"),
        ("convnext_atto", "plain"),
        ("swin_tiny_patch4_window7_224", "plain"),
        ("vit_tiny_patch16_224", "plain"),
    ],
)
def test_every_kind_of_network_has_maps_of_the_size_of_the_image(backbone: str, head: Any) -> None:
    size = 224 if "224" in backbone else 64
    network = build_network(spec_with(backbone=backbone, head=head, size=size)).eval()
    pixels = torch.from_numpy(RNG.integers(0, 256, (2, 2, size, size), dtype=np.uint8))
    methods = get_args(MapMethod) if head == "attention" else ("layercam", "gradcam")
    for method in methods:
        maps = class_maps(network, pixels, [2, 0], method=method)
        assert maps.shape == (2, 2, size, size)
        assert 0 <= maps.min() <= maps.max() <= 1
        most = maps.amax(dim=(2, 3))
        assert ((most == 0) | (most > 0.999)).all()
    assert not any(module._forward_hooks for module in network.modules()) or head == "multi-stage"


class Brightness(torch.nn.Module):
    """A backbone whose two features are the brightness of each channel in blocks of 8 px."""

    feature_info: Sequence[dict[str, str]] = ()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 8)


class Means(torch.nn.Module):
    """A head with a location for each channel; the third location is where channel a is dark."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        means = maps.mean(dim=(2, 3))
        return torch.cat([means, -means[:, :1]], dim=1)


def bright_network() -> Network:
    from cytoloc.models.network import Normalize

    return Network(Normalize((0.0, 0.0), (1.0, 1.0)), Brightness(), Means())


@pytest.mark.parametrize("method", ["layercam", "gradcam"])
def test_a_map_shows_the_pixels_that_a_location_depends_on(method: MapMethod) -> None:
    pixels = torch.zeros(1, 2, 64, 64, dtype=torch.uint8)
    pixels[0, 0, :8, 8:16] = 200
    pixels[0, 1, 40:48, 40:48] = 100
    maps = class_maps(bright_network(), pixels, [0, 1, 2], method=method)[0].numpy()
    assert np.unravel_index(maps[0].argmax(), (64, 64))[0] < 8
    assert 8 <= np.unravel_index(maps[0].argmax(), (64, 64))[1] < 16
    assert maps[0, 30:].max() == 0
    assert maps[1, :30].max() == 0
    assert maps[1, 43, 43] == pytest.approx(1, abs=0.1)
    assert maps[2].max() == 0  # nothing supports it


def test_gradcam_agrees_with_captum() -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(1)
    network = build_network(SPEC).eval()  # its gradients differ between places, because it also takes maxima
    normal = copy.deepcopy(network)
    normal.normalize = torch.nn.Identity()  # type: ignore[assignment]
    layer = captum.LayerGradCam(normal, normal.backbone)
    compared = 0
    for place in range(4):
        found = class_maps(network, PIXELS, [place], method="gradcam")[:, 0]
        theirs = layer.attribute(network.normalize(PIXELS), target=place, relu_attributions=True)
        large = torch.nn.functional.interpolate(theirs, size=(64, 64), mode="bilinear")[:, 0].detach()
        most = large.amax(dim=(1, 2), keepdim=True)
        torch.testing.assert_close(found, large / most.clamp(min=1e-30), atol=1e-4, rtol=1e-4)
        compared += int((most > 0).sum())
    assert compared >= 2


def test_explanations_are_those_of_the_predictions(model: cl.Model, dataset: cl.Dataset) -> None:
    found = model.explain(dataset, tta=2)
    expected = model.predict_sources(cl.open_sources([dataset.path]))
    places = [model.label_set.keys.index(key) for key in found.locations]
    assert found.ids == dataset.ids
    assert found.maps.shape == (8, len(places), 128, 128)
    assert found.maps.dtype == np.float32
    np.testing.assert_allclose(found.probabilities, expected.probabilities[:, places], atol=1e-5)
    assert model.decision is not None
    assert set(places) >= set(
        np.flatnonzero(model.decision.decide_calibrated(expected.probabilities).any(axis=0)).tolist()
    )
    assert found.predicted.any(axis=1).all()
    assert repr(found).startswith("Explanations(8 fields, ")
    blanked = dataset[:].copy()
    blanked[:, 1] = 0
    gone = model.probabilities(blanked)[:, places]
    np.testing.assert_allclose(found.without_channel[:, 1], gone - found.probabilities, atol=1e-5)
    table = found.channel_effects()
    assert table.columns[:5] == ["id", "location", "probability", "predicted", "without_microtubules"]
    row = table.row(len(places) + 1, named=True)
    assert (row["id"], row["location"]) == (dataset.ids[1], found.locations[1])
    assert row["without_protein"] == pytest.approx(float(found.without_channel[1, 1, 1]))


def test_every_field_has_a_predicted_location(model: cl.Model, dataset: cl.Dataset) -> None:
    cautious = copy.deepcopy(model.networks[0])
    last = [each for each in cautious.head.modules() if isinstance(each, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.sub_(0.7)  # so that some fields have no location above 0.5, and others have
    undecided = cl.Model([cautious], model.info, device="cpu", engine="torch")
    images = np.concatenate([np.zeros((2, 4, 128, 128), np.uint8), dataset[:]])
    found = undecided.explain(images)
    likely = undecided.probabilities(images, tta=1)
    places = [model.label_set.keys.index(key) for key in found.locations]
    assert 0 < (likely.max(axis=1) < 0.5).sum() < len(images)
    expected = (likely >= 0.5) | ((likely == likely.max(axis=1, keepdims=True)) & (likely.max(axis=1) < 0.5)[:, None])
    np.testing.assert_array_equal(found.predicted, expected[:, places])
    assert expected.sum() == found.predicted.sum()


def test_maps_are_averaged_over_networks(model: cl.Model, dataset: cl.Dataset) -> None:
    torch.manual_seed(0)
    other = copy.deepcopy(model.networks[0])
    with torch.no_grad():
        for each in other.head.parameters():
            each.add_(0.1 * torch.randn_like(each))
    both = cl.Model([model.networks[0], other], model.info, device="cpu", engine="torch")
    images, place = dataset[:2], [model.label_set.names.index("Nucleoplasm")]
    found = both.explain(images, locations=["Nucleoplasm"]).maps[:, 0]
    pixels = torch.from_numpy(images)
    total = sum(class_maps(one, pixels, place, method="layercam")[:, 0].numpy() for one in both.networks)
    assert isinstance(total, np.ndarray)
    np.testing.assert_allclose(found, total / total.max(axis=(1, 2), keepdims=True), atol=1e-5)


def test_models_with_another_engine_use_their_pytorch_networks(
    model: cl.Model, bundle: Path, dataset: cl.Dataset
) -> None:
    pytest.importorskip("openvino")
    other = cl.load(bundle, device="cpu", engine="openvino")
    ours, theirs = (one.explain(dataset[:2], locations=["Nucleoli"]) for one in (model, other))
    np.testing.assert_array_equal(ours.maps, theirs.maps)
    np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-4)


def test_maps_are_those_of_their_own_thread(model: cl.Model, dataset: cl.Dataset) -> None:
    # The service computes two things at a time with the same network.
    image = dataset[:][:1]
    alone = model.explain(image, locations=["Nucleoplasm"], tta=1).maps

    def work(number: int) -> None:
        if number % 3:
            found = model.explain(image, locations=["Nucleoplasm"], tta=1).maps
            np.testing.assert_allclose(found, alone, atol=1e-3)
        else:
            model.probabilities(image, tta=1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(24)))


def test_maps_turn_with_the_image(model: cl.Model, dataset: cl.Dataset) -> None:
    image = dataset[:][:1]
    straight = model.explain(image, locations=["Nucleoplasm"], tta=8).maps[0, 0]
    turned = model.explain(np.ascontiguousarray(np.rot90(image, axes=(2, 3))), locations=["Nucleoplasm"], tta=8)
    np.testing.assert_allclose(turned.maps[0, 0], np.rot90(straight), atol=1e-3)


def test_maps_of_random_weights_lose_the_pattern(model: cl.Model, dataset: cl.Dataset) -> None:
    torch.manual_seed(0)
    network = copy.deepcopy(model.networks[0])
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    pixels = torch.from_numpy(dataset[:])
    place = [model.label_set.names.index("Nucleoli")]
    trained, noise = (class_maps(one, pixels, place, method="layercam").numpy() for one in (model.networks[0], network))
    pairs = zip(trained, noise, strict=True)
    correlations = [float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if b.any() else 0.0 for a, b in pairs]
    assert abs(np.mean(correlations)) < 0.3


@pytest.mark.parametrize(("place", "margin"), [("Nucleoli", 4), ("Golgi apparatus", 3), ("Mitotic spindle", 10)])
def test_maps_lie_in_the_structure_of_the_protein(model: cl.Model, place: str, margin: float) -> None:
    number = model.label_set.names.index(place)
    plans = [plan_one(number, seed=seed, size=128) for seed in range(20, 26)]
    found = model.explain(np.stack([draw_field(plan, size=128) for plan in plans]), locations=[place])
    masks = [structure_and_cells(plan, 128)[0] for plan in plans]
    pairs = [(one, mask) for one, mask in zip(found.maps[:, 0], masks, strict=True) if mask.any() and one.any()]
    assert len(pairs) >= 4
    assert np.mean([one[mask].sum() / one.sum() / mask.mean() for one, mask in pairs]) > margin


def test_neighbors_are_labeled_fields(model: cl.Model, dataset: cl.Dataset) -> None:
    found = model.explain(dataset[:][:2], locations=["Nucleoli"], neighbors=dataset)
    assert found.neighbors is not None
    assert [dataset.ids[row] for row in found.neighbors.rows[:, 0]] == list(dataset.ids[:2])
    assert found.locations == ("2",)
    own = model.explain(
        dataset, locations=["Nucleoli"], neighbors=cl.embed_sources(model, cl.open_sources([dataset.path]))
    )
    assert own.neighbors is not None
    assert own.neighbors.rows.shape == (8, 5)
    assert all(row not in nearest for row, nearest in enumerate(own.neighbors.rows))


def test_bad_arguments(model: cl.Model, dataset: cl.Dataset, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TableError, match="nucleolus"):
        model.explain(dataset, locations=["nucleolus"])
    with pytest.raises(SettingsError, match="`locations` is empty"):
        model.explain(dataset, locations=[])
    with pytest.raises(SettingsError, match="unknown value 'cam'"):
        model.explain(dataset, method="cam")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="no attention head"):
        model.explain(dataset, method="attention")
    with pytest.raises(SettingsError, match="Invalid number of TTA views: 3"):
        model.explain(dataset, tta=3)
    with pytest.raises(ArgumentTypeError, match="`neighbors` must be"):
        model.explain(dataset, neighbors="a.dataset")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="`locations` must be"):
        model.explain(dataset, locations="nucleoli")
    with pytest.raises(ImageError, match=r"48 px|smaller"):
        model.explain(images)
    with pytest.raises(ChannelError, match="needs the channels"):
        model.explain(np.zeros((1, 128, 128), np.uint8), channels=["protein"])
    with pytest.raises(SettingsError, match="`batch_size` is 0"):
        cl.ExplainOptions(batch_size=0)
    monkeypatch.setattr("cytoloc.models.graphs.is_graph", lambda network: True)
    with pytest.raises(SettingsError, match="published as an ONNX graph"):
        model.explain(dataset)


def test_fields_that_cannot_be_read_are_listed(model: cl.Model, dataset: cl.Dataset) -> None:
    from cytoloc.dataset.quarantine import Rejected
    from cytoloc.predict.sources import FieldBatch

    class Source:
        name, channels, ids = "files", dataset.channels, ("good", "bad")

        def batches(self, size: int, length: int, resample: str = "area") -> Any:
            yield FieldBatch(("good",), dataset[:][:1], (Rejected("bad", "bad is damaged."),))

    seen: list[tuple[int, int]] = []
    found = cl.explain_sources(
        model,
        [Source()],  # type: ignore[list-item]
        options=cl.ExplainOptions(locations=["Nucleoli"]),
        progress=lambda *done: seen.append(done),
    )
    assert (found.ids, dict(found.rejected)) == (("good",), {"bad": "bad is damaged."})
    assert seen == [(1, 1)]
