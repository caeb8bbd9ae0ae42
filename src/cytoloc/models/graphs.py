"""Networks that others published as an ONNX graph. ONNX Runtime computes them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cytoloc.errors import MissingExtraError, installing
from cytoloc.models.network import Network, Normalize

EPSILON: Final = 1e-7
"""Distance of probabilities from 0 and 1, from which logits are computed."""


class GraphOutput(NamedTuple):
    """The output of a graph that has a value for each location.

    Attributes:
        name: The name of the output.
        is_probability: Whether its values are probabilities. Otherwise they are logits.
    """

    name: str
    is_probability: bool


class GraphBackbone(nn.Module):
    """An ONNX graph as a backbone, whose feature map is the logit of each location at one place.

    Args:
        graph: The content of an ONNX file, as a uint8 tensor.
        output: The output of the graph.
    """

    graph: Tensor

    def __init__(self, graph: Tensor, output: GraphOutput) -> None:
        super().__init__()
        self.register_buffer("graph", graph)
        self.output = output
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # a session cannot be copied

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of normalized pixels, shape ``(n, locations, 1, 1)``."""
        if self._session is None:
            self._session = open_session(self.graph.cpu().numpy().tobytes())
        (given,) = self._session.get_inputs()
        array = np.ascontiguousarray(pixels.float().cpu().numpy())
        count = len(array)
        # Some graphs take a fixed number of images at a time. The last ones are filled up with black images.
        step = given.shape[0] if isinstance(given.shape[0], int) else max(count, 1)
        array = np.concatenate([array, np.zeros((-count % step, *array.shape[1:]), array.dtype)])
        found = [
            self._session.run([self.output.name], {given.name: array[start : start + step]})[0]
            for start in range(0, len(array), step)
        ]
        values = torch.from_numpy(np.concatenate(found)[:count]).to(pixels.device)
        return (values.logit(EPSILON) if self.output.is_probability else values)[:, :, None, None]


def open_session(graph: bytes) -> Any:
    """Return a session of ONNX Runtime for a graph.

    Args:
        graph: The content of an ONNX file.

    Returns:
        The session.

    Raises:
        MissingExtraError: If ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "A network that was published as ONNX needs the library onnxruntime.", hint=installing("engines")
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def graph_network(graph: Tensor, output: GraphOutput, *, channels: int) -> Network:
    """Return the network of a graph whose input is pixels divided by 255.

    Args:
        graph: The content of an ONNX file, as a uint8 tensor.
        output: The output of the graph.
        channels: Number of channels.

    Returns:
        The network, from uint8 fields to logits.
    """
    return Network(Normalize([0.0] * channels, [1.0] * channels), GraphBackbone(graph, output), nn.Flatten())


def is_graph(module: nn.Module) -> bool:
    """Return whether a module contains an ONNX graph."""
    return any(isinstance(each, GraphBackbone) for each in module.modules())
