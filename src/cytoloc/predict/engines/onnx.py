"""The engine of ONNX Runtime."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from cytoloc.predict.engines.engine import Outputs


class OnnxEngine:
    """A network that ONNX Runtime computes on the processor.

    Args:
        graph: The content of an ONNX file.
    """

    name: Final = "onnx"

    def __init__(self, graph: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels: Tensor) -> Outputs:
        """Return the outputs for uint8 fields of shape ``(n, channels, size, size)``."""
        array = np.ascontiguousarray(pixels.cpu().numpy())
        logits, features = self._session.run(["logits", "features"], {"pixels": array})
        return Outputs(torch.from_numpy(logits), torch.from_numpy(features))
