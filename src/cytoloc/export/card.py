"""The card of an exported model: what it takes, what it returns, and how to run it."""

from __future__ import annotations

from typing import Final, Literal

from cytoloc.export.pipeline import OUTPUT
from cytoloc.predict.model import Model

ExportFormat = Literal["onnx", "openvino", "bioimageio"]
"""A format of exported models."""

_ONNX: Final = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
pixels = np.load("test_input.npy")  # your images: uint8, (n, channels, size, size)
(probabilities,) = session.run(None, {"pixels": pixels})
print(probabilities.shape)"""

_OPENVINO: Final = """\
import numpy as np
import openvino

model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
pixels = np.load("test_input.npy")  # your images: uint8, (n, channels, size, size)
probabilities = model(pixels)[0]
print(probabilities.shape)"""

_BIOIMAGEIO: Final = """\
from bioimageio.core import test_model

print(test_model("package.zip").status)"""

USES: Final[dict[ExportFormat, str]] = {"onnx": _ONNX, "openvino": _OPENVINO, "bioimageio": _BIOIMAGEIO}
"""A script that runs an exported model, for each format."""


def export_card(model: Model, *, format: ExportFormat, tta: int) -> str:  # noqa: A002
    """Return the card of an exported model in Markdown.

    Args:
        model: The model.
        format: The format of the export.
        tta: Number of test-time augmentation views in the graph.

    Returns:
        The card: input, output, a script that runs the model, and the card of the model itself.
    """
    calibrated = "calibrated probabilities" if model.decision else "probabilities, which are not calibrated"
    lines = [
        f"# Exported model: {model.label_set.name}, {model.size} px",
        "",
        *([f"**{model.info.caution}**", ""] if model.info.caution else []),
        f"Input `pixels`: uint8 of shape `(n, {len(model.channels)}, {model.size}, {model.size})`, with the channels"
        f" {', '.join(model.channels)}, in this order. Scale larger images down by averaging areas.",
        "",
        f"Output `{OUTPUT}`: float32 of shape `(n, {len(model.label_set)})`, {calibrated}. The graph averages"
        f" {tta} test-time augmentation view{'s' * (tta != 1)}. `model.json` lists the locations and their thresholds;"
        " the graph itself carries them as the property `cytoloc`.",
        "",
        "```python",
        USES[format],
        "```",
    ]
    return "\n".join([*lines, "", model.info.card]).rstrip() + "\n"
