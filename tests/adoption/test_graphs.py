"""Published ONNX graphs as bundles: the last node says what their values are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cytoloc
from cytoloc.errors import SettingsError, WeightsError
from cytoloc.labels.label_set import LabelSet
from tests.adoption.goldens import waves
from tests.conftest import Cli

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

OWN = LabelSet.from_names(["Cortex", "Nucleus", "Vesicles"], name="mine")


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "sigmoid": torch.sigmoid,
    "division": lambda logits: torch.exp(logits) / (1 + torch.exp(logits)),
    "reciprocal": lambda logits: 1 / (1 + torch.exp(-logits)),
    "softmax": lambda logits: logits.softmax(dim=1),
}


class Classifier(nn.Module):
    """A small classifier of float images, with features as a second output."""

    def __init__(self, end: str, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(2, 8, 3, stride=4)
        self.last = nn.Linear(8, classes)
        self.end = end

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return values of the locations, and features."""
        features = self.body(image).relu().mean(dim=(2, 3))
        logits = self.last(features)
        return ENDS[self.end](logits), features


def exported(end: str, path: Path, *, batch: bool = True) -> Path:
    axes = {"image": {0: "n"}, "classes": {0: "n"}, "features": {0: "n"}} if batch else {}
    torch.onnx.export(
        Classifier(end).eval(),
        (torch.zeros(1, 2, 32, 32),),
        path,
        input_names=["image"],
        output_names=["classes", "features"],
        dynamic_axes=axes,
        dynamo=False,
    )
    return path


CASES = [("logits", True), ("sigmoid", True), ("division", False), ("reciprocal", True)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("end", "batch"), [("logits", True), ("sigmoid", True), ("division", False), ("reciprocal", True)]
)
def test_logits_and_probabilities_are_found_from_the_last_node(tmp_path: Path, end: str, *, batch: bool) -> None:
    file = exported(end, tmp_path / "w.onnx", batch=batch)
    cytoloc.adopt_onnx(file, tmp_path / "m.cytoloc", label_set=OWN, size=32, channels=["nucleus", "protein"])
    model = cytoloc.load(tmp_path / "m.cytoloc", device="cpu")
    fields = waves(3, 2, 32)
    with torch.inference_mode():
        logits = Classifier("logits").eval()(torch.from_numpy(fields) / 255)[0]
    found = model.predict(fields)
    assert "fields_trained_on" not in found.provenance  # it is not known
    np.testing.assert_allclose(found.probabilities, logits.sigmoid(), atol=2e-6)
    assert (model.engine, found.label_set.name, model.channels) == ("onnx", "mine", ("nucleus", "protein"))
    with pytest.raises(SettingsError, match="does not compute"):
        cytoloc.load(tmp_path / "m.cytoloc", engine="torch")
    with pytest.raises(SettingsError, match="cannot be exported again"):
        cytoloc.export_model(tmp_path / "m.cytoloc", tmp_path / "e", format="onnx")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_graphs_of_another_kind_are_refused(cli: Cli, tmp_path: Path) -> None:
    good, soft = exported("logits", tmp_path / "g.onnx"), exported("softmax", tmp_path / "s.onnx")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(good.read_bytes()[:500])
    out, names = tmp_path / "m.cytoloc", ["nucleus", "protein"]
    for file, size, channels, label_set, match in (
        (soft, 32, names, OWN, "ends with the operation Softmax"),
        (good, 64, names, OWN, r"does not take float images of shape \(2, 64, 64\)"),
        (good, 32, ["protein"], OWN, r"does not take float images of shape \(1, 32, 32\)"),
        (good, 32, names, "hpa28", r"has 0 outputs with 28 values .* classes \(3,\), features \(8,\)"),
        (cut, 32, names, OWN, "cannot be read as an ONNX graph"),
    ):
        with pytest.raises(WeightsError, match=match):
            cytoloc.adopt_onnx(file, out, label_set=label_set, size=size, channels=channels)
    said = cli(
        "adopt", "onnx", good, "--label-set", "hpa19", "--size", 32, "--channels", "nucleus,protein", "--out", out
    )
    assert (said.code, "Check --label-set" in said.err or "Check --labels" in said.err) == (1, True)
    assert not out.exists()
