"""The plugin for napari, without a screen."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cytoloc
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ChannelError
from cytoloc.simulate.plan import Design
from cytoloc.simulate.study import simulate_dataset

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of napari and Qt
    napari = pytest.importorskip("napari", reason="napari is not installed")
    qt = pytest.importorskip("qtpy.QtWidgets", reason="Qt is not installed", exc_type=ImportError)
    from npe2 import PluginManifest

    from cytoloc.napari.reader import get_reader, read_layers
    from cytoloc.napari.widget import ABSENT, PredictWidget, predict_planes

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return simulate_dataset(tmp_path_factory.mktemp("napari") / "plate.dataset", Design(n_fields=3, seed=2, size=128))


@pytest.fixture(scope="module")
def application() -> Any:
    return qt.QApplication.instance() or qt.QApplication([])


@pytest.fixture
def viewer(dataset: Dataset) -> Any:
    model = napari.components.ViewerModel()
    for data, settings, kind in read_layers(str(dataset.path)):
        assert kind == "image"
        model.add_image(data, **settings)
    return model


def test_the_manifest_is_valid_and_names_what_exists() -> None:
    manifest = PluginManifest.from_file(Path(cytoloc.__file__).parent / "napari" / "napari.yaml")
    manifest.validate_imports()
    assert {each.command for each in manifest.contributions.readers or []} == {"cytoloc.read_dataset"}


def test_a_dataset_becomes_a_layer_per_channel(dataset: Dataset, viewer: Any, tmp_path: Path) -> None:
    assert get_reader(str(dataset.path)) is read_layers
    assert get_reader(str(tmp_path)) is None
    assert [layer.metadata["channel"] for layer in viewer.layers] == list(dataset.channels)
    stack = viewer.layers[1].data
    assert stack.shape == (3, 128, 128)
    assert np.array_equal(stack[2], dataset[2][1])
    assert np.array_equal(stack[1:, 4:6, ::2], dataset[1:][:, 1, 4:6, ::2])
    assert np.array_equal(stack[1, 4:6, ::2], dataset[1][1, 4:6, ::2])
    assert np.array_equal(np.asarray(stack), dataset[:][:, 1])
    assert viewer.layers[0].scale[-1] == pytest.approx(1.28, rel=0.5)


def test_the_widget_predicts_the_field_that_is_shown(dataset: Dataset, viewer: Any, application: Any) -> None:
    widget = PredictWidget(viewer)
    model = cytoloc.load("builtin", device="cpu", engine="torch")
    widget._loaded(model)
    viewer.dims.set_current_step(0, 2)
    planes = widget.planes()
    assert list(planes) == list(model.channels)
    assert all(np.array_equal(plane, dataset[2][number]) for number, plane in enumerate(planes.values()))
    found = predict_planes(model, planes)
    expected = model.predict(dataset[2])
    assert np.allclose(found.predictions.probabilities, expected.probabilities, atol=1e-6)
    widget.show_result(found)
    first = expected.label_set[int(expected.probabilities[0].argmax())].name
    assert dict(widget._table.value)["data"][0][0] == first
    assert "not for conclusions" in widget._note.value
    names = [layer.name for layer in viewer.layers if layer.name.startswith("map: ")]
    assert set(names) == {f"map: {each.name}" for each in expected.locations[0][:6]}
    widget.show_result(found)  # replaces the layers
    assert [layer.name for layer in viewer.layers].count(names[0]) == 1


def test_missing_channels_are_black_and_the_protein_is_required(dataset: Dataset) -> None:
    model = cytoloc.load("builtin", device="cpu", engine="torch")
    image = dict(zip(dataset.channels, dataset[0], strict=True))
    del image["er"]
    assert "er not imaged" in predict_planes(model, image, with_maps=False).predictions.cautions[0]
    with pytest.raises(ChannelError, match="No layer is chosen for the protein"):
        predict_planes(model, {"nucleus": image["nucleus"]})
    with pytest.raises(ChannelError, match="different sizes"):
        predict_planes(model, {**image, "nucleus": image["nucleus"][:64]})


def test_channels_can_be_left_out(viewer: Any, application: Any) -> None:
    widget = PredictWidget(viewer)
    widget._loaded(cytoloc.load("builtin", device="cpu", engine="torch"))
    widget._channels["er"].value = ABSENT
    assert list(widget.planes()) == ["microtubules", "protein", "nucleus"]
    # Layers that come later, such as maps of an earlier prediction, do not undo the choice.
    viewer.add_image(np.zeros((128, 128)), name="other")
    viewer.add_image(np.zeros((128, 128)), name="map: er", metadata={"cytoloc_map": "er"})
    assert widget._channels["er"].value == ABSENT
    assert "map: er" not in widget._channels["er"].choices
    viewer.add_image(np.zeros((128, 128)), name="my er")
    assert widget._channels["er"].value == "my er"
