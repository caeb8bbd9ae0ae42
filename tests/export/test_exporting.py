from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cytoloc as cl
from cytoloc.decide.decision import Decision
from cytoloc.decide.methods import AnyMethod, ExpectedF1, Grid, Stack
from cytoloc.errors import ExportError, SettingsError
from cytoloc.export.pipeline import Pipeline
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from tests.conftest import Cli
from tests.predict.test_engines import network_of


def decision_of(method: AnyMethod) -> Decision:
    rng = np.random.default_rng(0)
    truth = rng.random((300, 28)) < 0.3
    scores = np.clip(0.25 + 0.3 * truth + 0.2 * rng.standard_normal(truth.shape), 0.01, 0.99)
    fitted = cl.fit_decision(scores, truth, method=method, label_set="hpa28")
    assert isinstance(fitted, Decision)
    return fitted


METHODS: list[AnyMethod] = [
    Grid(),
    Stack(),
    *(ExpectedF1(calibration=kind) for kind in ("platt", "temperature", "beta", "isotonic")),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_calibration_is_exported_exactly(method: AnyMethod) -> None:
    decision = decision_of(method)
    scores = np.random.default_rng(1).random((50, 28)).astype(np.float32)
    module = Pipeline([], decision, tta=1).after
    found = module(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(found, decision.probabilities({decision.members[0]: scores}), atol=1e-5)


def test_ranks_are_not_exported() -> None:
    with pytest.raises(ExportError, match="combines ranks"):
        Pipeline([], decision_of(Grid(ensemble="rank")), tta=1)


def model_of(decision: Decision | None) -> Model:
    info = ModelInfo(size=64, channels=cl.CHANNELS, label_set=cl.LabelSet.hpa28(), caution="Only a test.")
    networks = [network_of("resnet10t", "average-max"), network_of("resnet18")]
    return Model(networks, info, decision=decision, device="cpu", engine="torch")


def run_card(folder: Path) -> None:
    """Run the script in the card of an export, which keeps its probabilities in ``found.npy``."""
    script = (folder / "card.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in script.splitlines() if line]) == 6
    keep = "\nimport sys\nnp.save('found.npy', probabilities)\nassert 'torch' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", script + keep], cwd=folder, check=True, capture_output=True)


def test_an_onnx_export_runs_in_plain_onnxruntime(tmp_path: Path) -> None:
    model = model_of(decision_of(ExpectedF1()))
    folder = cl.export_model(model, tmp_path / "model", tta=2)
    facts = json.loads((folder / "model.json").read_text())
    assert facts["input"] == {"name": "pixels", "type": "uint8", "channels": list(cl.CHANNELS), "size_px": 64}
    assert facts["locations"][1]["key"] == "1"
    card = (folder / "card.md").read_text()
    assert "**Only a test.**" in card
    # The script in the card runs without cytoloc, on any number of fields.
    fields = np.random.default_rng(0).integers(0, 200, (5, 4, 64, 64), dtype=np.uint8)
    expected = model.probabilities(fields, tta=2)
    np.save(folder / "test_input.npy", fields)
    run_card(folder)
    np.testing.assert_allclose(np.load(folder / "found.npy"), expected, atol=1e-4)


def test_an_openvino_export_computes_its_test_output(tmp_path: Path) -> None:
    folder = cl.export_model(model_of(None), tmp_path / "model", format="openvino")
    run_card(folder)
    np.testing.assert_allclose(np.load(folder / "found.npy"), np.load(folder / "test_output.npy"), atol=1e-4)


def refuse(*_given: Any) -> Any:
    raise RuntimeError("no such operation")


def test_an_export_that_openvino_computes_in_another_way_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openvino.Core.compile_model", lambda *_given: lambda _fields: [np.zeros((), np.float32)])
    with pytest.raises(ExportError, match=r"OpenVINO computes probabilities .* of the shape \(\), not \(3, 28\)"):
        cl.export_model(model_of(None), tmp_path / "model", format="openvino")
    monkeypatch.setattr("openvino.Core.compile_model", refuse)
    with pytest.raises(ExportError, match="OpenVINO cannot compute the exported graph: no such operation"):
        cl.export_model(model_of(None), tmp_path / "model", format="openvino")
    assert list(tmp_path.iterdir()) == []


# bioimageio leaves the package open until it is collected.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_package_passes_the_test_of_bioimageio(tmp_path: Path) -> None:
    from bioimageio.core import load_model_description, test_model

    package = cl.export_model(model_of(decision_of(Stack())), tmp_path / "model.zip", format="bioimageio")
    assert test_model(package).status == "passed"
    assert load_model_description(package).weights.onnx is not None


def test_wrong_exports_are_refused(tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(SettingsError, match=r"model\.onnx is not a valid name for a bioimage.io package"):
        cl.export_model("builtin", tmp_path / "model.onnx", format="bioimageio")
    with pytest.raises(SettingsError, match="Invalid number of TTA views: 3"):
        cl.export_model("builtin", tmp_path / "model", tta=3)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    assert cli("export", "builtin", "--out", tmp_path / "there").code == 1
    done = cli("export", tmp_path / "no.cytoloc", "--out", tmp_path / "new")
    assert done.code == 1
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_to_do_next(tmp_path: Path, cli: Cli) -> None:
    done = cli("export", "builtin", "--format", "onnx", "--out", tmp_path / "new")
    assert done.code == 0, done.err
    assert "5 files" in done.out
    assert f"Next: read {tmp_path / 'new' / 'card.md'}" in done.out
