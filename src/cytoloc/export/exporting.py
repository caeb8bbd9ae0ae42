"""The export of models, with a test input, its output and a card."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np

from cytoloc._typing import Float32Array
from cytoloc.choices import check_type, refuse_unknown
from cytoloc.errors import ExportError, MissingExtraError, SettingsError, installing
from cytoloc.export.card import ExportFormat, export_card
from cytoloc.export.pipeline import OUTPUT, Pipeline
from cytoloc.files import check_outputs, new_folder
from cytoloc.predict.engines.choosing import probe_fields
from cytoloc.predict.engines.engine import PARITY
from cytoloc.predict.engines.graph import onnx_graph
from cytoloc.predict.loading import load
from cytoloc.predict.model import Model
from cytoloc.predict.tta import check_tta


def export_model(
    model: str | Path | Model,
    out: str | Path,
    *,
    format: ExportFormat = "onnx",  # noqa: A002
    tta: int = 1,
) -> Path:
    """Export a model to files that other programs run. They take uint8 pixels and return calibrated probabilities.

    The exported graph contains normalization, all networks, test-time augmentation and the calibration of the decision.
    It is run on a test input, and must give the probabilities of the model to 1e-4.

    Args:
        model: A model, or what :func:`cytoloc.load` loads.
        out: The new folder; for ``bioimageio`` the new ``.zip`` file.
        format: ``"onnx"`` for ONNX Runtime, ``"openvino"``, or ``"bioimageio"`` for a bioimage.io package.
        tta: Number of test-time augmentation views in the graph: 1, 2, 4 or 8.

    Returns:
        The path of the folder or file.

    Raises:
        ExportError: If the model cannot be converted, or the graph gives other probabilities.
        MissingExtraError: If a library is not installed.
        OutputExistsError: If ``out`` exists.
        SettingsError: If ``format``, ``tta`` or the suffix of ``out`` is invalid.

    Examples:
        >>> export_model("builtin", "builtin.onnx", format="onnx")  # doctest: +SKIP
        PosixPath('builtin.onnx')
    """
    refuse_unknown(format, get_args(ExportFormat), argument="format")
    check_type(model, (str, Path, Model), argument="model")
    check_type(out, (str, Path), argument="out")
    out = Path(out)
    if format == "bioimageio" and out.suffix != ".zip":
        raise SettingsError(f"{out} is not a valid name for a bioimage.io package.", hint=f"Choose {out.stem}.zip.")
    check_outputs(out)
    check_tta(tta)
    loaded = model if isinstance(model, Model) else load(model, device="cpu", engine="torch")
    # A model of the user stays on its device.
    networks = [copy.deepcopy(network).cpu() for network in loaded.networks]
    pipeline = Pipeline(networks, loaded.decision, tta=tta).eval()
    graph = onnx_graph(pipeline, channels=len(loaded.channels), size=loaded.size, outputs=(OUTPUT,))
    import onnx

    # The metadata state the channels, the locations and their thresholds.
    content = onnx.load_from_string(graph)
    onnx.helper.set_model_props(content, {"cytoloc": json.dumps(model_facts(loaded, tta=tta))})
    graph = content.SerializeToString()
    fields = probe_fields(len(loaded.channels), loaded.size).numpy()
    exact = Model(networks, loaded.info, decision=loaded.decision, device="cpu", engine="torch")
    expected = exact.probabilities(fields, tta=tta)
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("Export needs the library onnxruntime.", hint=installing("engines")) from error
    with _computing("ONNX Runtime"):
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        found = session.run([OUTPUT], {"pixels": fields})[0]
    _refuse_other(found, expected, library="ONNX Runtime")
    if format == "bioimageio":
        from cytoloc.export.bioimageio import write_package

        return write_package(loaded, graph, out, fields=fields, probabilities=expected, tta=tta)
    with new_folder(out) as folder:
        if format == "onnx":
            (folder / "model.onnx").write_bytes(graph)
        else:
            try:
                import openvino
            except ModuleNotFoundError as error:
                raise MissingExtraError(
                    "This format needs the library openvino.", hint=installing("engines")
                ) from error
            with _computing("OpenVINO"):
                core = openvino.Core()
                read = core.read_model(model=graph, weights=b"")
                found = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([fields])[0]
            _refuse_other(found, expected, library="OpenVINO")
            # This also writes model.bin.
            openvino.save_model(read, str(folder / "model.xml"), compress_to_fp16=False)
        np.save(folder / "test_input.npy", fields)
        np.save(folder / "test_output.npy", expected)
        (folder / "model.json").write_text(json.dumps(model_facts(loaded, tta=tta), indent=1), encoding="utf-8")
        (folder / "card.md").write_text(export_card(loaded, format=format, tta=tta), encoding="utf-8")
    return out


def model_facts(model: Model, *, tta: int) -> dict[str, Any]:
    """Return what a program needs to know to use an exported model, as JSON values."""
    thresholds = model.decision.thresholds.tolist() if model.decision else [None] * len(model.label_set)
    return {
        "input": {"name": "pixels", "type": "uint8", "channels": list(model.channels), "size_px": model.size},
        "output": {"name": OUTPUT, "type": "float32", "calibrated": model.decision is not None},
        "tta": tta,
        "caution": model.info.caution,
        "locations": [
            {"key": location.key, "name": location.name, "threshold": threshold}
            for location, threshold in zip(model.label_set, thresholds, strict=True)
        ],
    }


@contextmanager
def _computing(library: str) -> Iterator[None]:
    """Turn the exceptions of a library that computes an exported graph into :class:`ExportError`."""
    try:
        yield
    # A graph with an operation that the library lacks raises different exceptions.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ExportError(
            f"{library} cannot compute the exported graph: {reason}.",
            hint="Report this model, or use it through cytoloc.",
        ) from error


def _refuse_other(found: Float32Array, expected: Float32Array, *, library: str) -> None:
    """Raise if a library computes other probabilities than the model."""
    if found.shape != expected.shape:
        what = f"of the shape {found.shape}, not {expected.shape}"
    elif not (difference := float(np.abs(found - expected).max())) <= PARITY:
        what = f"that differ from those of the model by {difference:.2g}"
    else:
        return
    raise ExportError(
        f"{library} computes probabilities for the exported graph {what}.",
        hint="Report this model, or use it through cytoloc.",
    )
