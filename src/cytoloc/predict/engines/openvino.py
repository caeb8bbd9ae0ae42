"""The engine of OpenVINO: the fastest one on Intel and AMD processors."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import openvino
import torch
from torch import Tensor

from cytoloc.predict.engines.engine import Outputs

FIELDS_PER_REQUEST: Final = 4
"""Number of fields that one request computes. Several requests run at the same time."""


class OpenVinoEngine:
    """A network that OpenVINO computes on the processor.

    Args:
        graph: The content of an ONNX file, or an OpenVINO model.
    """

    name: Final = "openvino"

    def __init__(self, graph: bytes | openvino.Model) -> None:
        core = openvino.Core()
        model = core.read_model(model=graph, weights=b"") if isinstance(graph, bytes) else graph
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": "f32",  # bfloat16, its choice on some processors, changes decisions
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
        self._queue = openvino.AsyncInferQueue(compiled)
        self._queue.set_callback(_keep)

    def __call__(self, pixels: Tensor) -> Outputs:
        """Return the outputs for uint8 fields of shape ``(n, channels, size, size)``."""
        array = np.ascontiguousarray(pixels.cpu().numpy())
        parts: list[Any] = [None] * -(-len(array) // FIELDS_PER_REQUEST)
        for number in range(len(parts)):
            start = number * FIELDS_PER_REQUEST
            self._queue.start_async({0: array[start : start + FIELDS_PER_REQUEST]}, (parts, number))
        self._queue.wait_all()
        logits, features = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        return Outputs(logits, features)


def _keep(request: Any, place: tuple[list[Any], int]) -> None:
    """Copy the outputs of a finished request, because the next request reuses their memory."""
    parts, number = place
    parts[number] = [request.get_output_tensor(index).data.copy() for index in (0, 1)]
