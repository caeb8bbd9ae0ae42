"""The engine of OpenVINO: the fastest one on Intel and AMD processors."""

from __future__ import annotations

from threading import local
from typing import Any, Final

import numpy as np
import openvino
import torch
from torch import Tensor

from cytoloc.predict.engines.engine import Outputs

FIELDS_PER_REQUEST: Final = 4
"""Maximum number of fields that one request computes. Several requests run at the same time."""


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
        self._compiled = compiled
        self._at_once = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._of_thread = local()

    def __call__(self, pixels: Tensor) -> Outputs:
        """Return the outputs for uint8 fields of shape ``(n, channels, size, size)``. Several threads may call this."""
        array = np.ascontiguousarray(pixels.cpu().numpy())
        # All requests have the same number of fields, give or take one. Except for very few fields, the number of
        # requests is a multiple of the number that run at once, so that no core is idle at the end.
        rounds = -(-len(array) // (self._at_once * FIELDS_PER_REQUEST))
        batches = np.array_split(array, min(len(array), self._at_once * rounds))
        # Requests of a call that fails or is interrupted are not used again: they can still be busy.
        requests = self._of_thread.__dict__.pop("requests", None) or self._new_requests()
        outputs = []
        for number, batch in enumerate(batches):
            request = requests[number % len(requests)]
            if number >= len(requests):
                outputs.append(_outputs(request))
            request.start_async({0: batch})
        outputs += [_outputs(requests[number % len(requests)]) for number in range(len(outputs), len(batches))]
        self._of_thread.requests = requests
        logits, features = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*outputs, strict=True))
        return Outputs(logits, features)

    def _new_requests(self) -> list[Any]:
        """Return twice as many requests as run at the same time, so that the next ones wait in line."""
        return [self._compiled.create_infer_request() for _ in range(2 * self._at_once)]


def _outputs(request: Any) -> list[Any]:
    """Wait for a request, and copy its outputs, because its next use overwrites them."""
    request.wait()
    return [request.get_output_tensor(index).data.copy() for index in (0, 1)]
