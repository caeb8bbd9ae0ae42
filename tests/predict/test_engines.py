from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cytoloc as cl
from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS
from cytoloc.choices import HeadName
from cytoloc.errors import EngineWarning, ExportError, MissingExtraError, SettingsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import Network, build_network
from cytoloc.predict.engines import choosing
from cytoloc.predict.engines.engine import PixelsToOutputs
from cytoloc.predict.engines.graph import onnx_graph
from cytoloc.predict.engines.openvino import OpenVinoEngine
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.recipes.recipe import load_recipe, recipe_names
from tests.models.nets import spec_of

ENGINES = ("openvino", "onnx")


def network_of(backbone: str, head: HeadName = "plain") -> Network:
    """A network whose batch normalization fits its input, so that its outputs differ between fields."""
    torch.manual_seed(0)
    network = build_network(spec_of(backbone, head, dropout=0.0, size=64)).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randint(0, 256, (4, 4, 64, 64), dtype=torch.uint8))
        for last in [one for one in network.head.modules() if isinstance(one, torch.nn.Linear)][-1:]:
            last.weight *= 20
    return network.eval()


def model_of(network: Network, engine: str) -> Model:
    info = ModelInfo(size=64, channels=CHANNELS, label_set=LabelSet.hpa28(), tta=2)
    return Model([network], info, device="cpu", engine=engine)


@pytest.fixture(scope="module")
def fields() -> UInt8Array:
    rng = np.random.default_rng(1)
    brightness = np.linspace(0.1, 1, 21)[:, None, None, None]
    return (brightness * rng.integers(0, 256, (21, 4, 64, 64))).astype(np.uint8)


def out_of_memory(*_given: Any) -> list[Any]:
    raise MemoryError


def refuse_graphs(*_given: Any, **_named: Any) -> bytes:
    raise ExportError("no graph")


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("resnet18", "average-max"),
        ("resnet18", "attention"),
        ("resnet18", "multi-stage"),
        ("vit_tiny_patch16_224", "plain"),
    ],
)
def test_engines_give_the_probabilities_of_torch(backbone: str, head: HeadName, fields: UInt8Array) -> None:
    network = network_of(backbone, head)
    expected = model_of(network, "torch").predict(fields).probabilities
    assert expected.std(axis=0).max() > 1e-3
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    for engine in ENGINES:
        found = model_of(network, engine).predict(fields, batch_size=8)
        assert found.provenance["engine"] == engine
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    # The copy that is converted has other positions; the network keeps its own.
    assert {name: value.shape for name, value in network.state_dict().items()} == shapes


def test_threads_share_an_engine_and_batches_have_any_length(fields: UInt8Array) -> None:
    model = model_of(network_of("resnet18"), "openvino")
    whole = model.probabilities(fields, tta=1)

    def part(length: int) -> None:
        for _ in range(5):
            np.testing.assert_allclose(model.probabilities(fields[:length], tta=1), whole[:length], atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(part, [1, 3, 5, 8, 9, 17, 21]))


def test_a_call_that_fails_leaves_the_next_one_unharmed(fields: UInt8Array, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OpenVinoEngine(
        onnx_graph(PixelsToOutputs(network_of("resnet18")), channels=4, size=64, outputs=("logits", "features"))
    )
    pixels = torch.from_numpy(fields)
    whole = engine(pixels).logits
    with monkeypatch.context() as broken, pytest.raises(MemoryError):
        broken.setattr("cytoloc.predict.engines.openvino._outputs", out_of_memory)
        engine(pixels)
    torch.testing.assert_close(engine(pixels.flip(0)).logits.flip(0), whole, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_engines_compute_every_backbone_of_a_recipe(fields: UInt8Array, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[bytes] = []

    def once(*given: Any, **named: Any) -> bytes:
        """Return the graph of a network, which all engines read; making it takes a second."""
        graphs.extend([] if graphs else [onnx_graph(*given, **named)])
        return graphs[0]

    monkeypatch.setattr(choosing, "onnx_graph", once)
    backbones = {load_recipe(name).model.backbone for name in recipe_names()}
    assert len(backbones) >= 8
    for backbone in backbones:
        graphs.clear()
        network = network_of(backbone, "average-max")
        expected = model_of(network, "torch").predict(fields[:4]).probabilities
        for engine in ENGINES:
            found = model_of(network, engine).predict(fields[:4]).probabilities
            np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=f"{engine}, {backbone}")


def test_auto_takes_the_fastest_exact_engine_for_many_fields(
    fields: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(network_of("resnet18"), "auto")
    assert model.predict(fields[:2]).provenance["engine"] == "torch"
    assert model.predict(fields).provenance["engine"] == "openvino"
    # What has been converted is used for few fields too.
    assert model.predict(fields[:2]).provenance["engine"] == "openvino"
    monkeypatch.setattr(choosing, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    assert model_of(model.networks[0], "auto").predict(fields).provenance["engine"] == "onnx"


def test_auto_says_which_engine_it_skips(fields: UInt8Array, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("resnet18")
    monkeypatch.setattr(choosing, "onnx_graph", refuse_graphs)
    with pytest.warns(EngineWarning) as caught:
        assert model_of(network, "auto").predict(fields).provenance["engine"] == "torch"
    assert [str(each.message) for each in caught] == [f"The engine {name} is skipped. no graph" for name in ENGINES]
    with pytest.raises(ExportError, match="no graph"):
        model_of(network, "onnx").predict(fields)


def test_an_engine_with_other_probabilities_is_refused(fields: UInt8Array, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of("resnet18")
    other = onnx_graph(PixelsToOutputs(network_of("resnet10t")), channels=4, size=64, outputs=("logits", "features"))
    monkeypatch.setattr(choosing, "onnx_graph", lambda *_given, **_named: other)
    with pytest.raises(ExportError, match="differ from those of PyTorch by 0"):
        model_of(network, "openvino").predict(fields)


def test_an_engine_that_fails_on_a_network_is_skipped(fields: UInt8Array, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: Any) -> Any:
        raise ValueError("zero-dimensional arrays")

    monkeypatch.setattr("cytoloc.predict.engines.openvino.OpenVinoEngine.__call__", fail)
    with pytest.warns(
        EngineWarning, match=r"The engine openvino cannot compute this network: zero-dimensional arrays\."
    ):
        assert model_of(network_of("resnet18"), "auto").predict(fields).provenance["engine"] == "onnx"


def test_engines_that_are_impossible_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"unknown value 'openvin'\.\n  Did you mean openvino"):
        cl.load("builtin", engine="openvin")
    with pytest.raises(SettingsError, match="onnx computes on the CPU in float32, not on cpu in bfloat16"):
        cl.load("builtin", engine="onnx", device="cpu", precision="bfloat16")
    monkeypatch.setattr(choosing, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match="needs the library openvino"):
        cl.load("builtin", engine="openvino", device="cpu")


def test_a_dataset_gives_the_same_with_every_engine(tmp_path: Path) -> None:
    dataset = cl.simulate_dataset(tmp_path / "made.dataset", cl.Design(n_fields=6, seed=3, size=128))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [cl.load("builtin", device="cpu", engine=name).predict(dataset) for name in ("torch", *ENGINES)]
    for each in found[1:]:
        np.testing.assert_allclose(each.probabilities, found[0].probabilities, atol=1e-4)
        assert each.decided is not None
        assert found[0].decided is not None
        assert (each.decided == found[0].decided).all()
