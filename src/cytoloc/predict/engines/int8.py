"""Networks with 8-bit integers: quantization with NNCF, and their engine."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cytoloc._typing import UInt8Array
from cytoloc.errors import ExportError, MissingExtraError, first_line, installing
from cytoloc.models.network import Network
from cytoloc.predict.engines.engine import Engine, PixelsToOutputs
from cytoloc.predict.engines.graph import onnx_graph


class Int8Graph(NamedTuple):
    """A quantized network, as OpenVINO stores it.

    Attributes:
        xml: The content of the ``.xml`` file, the operations.
        weights: The content of the ``.bin`` file, the weights.
    """

    xml: bytes
    weights: bytes


def quantize(network: Network, fields: UInt8Array) -> Int8Graph:
    """Convert a network to 8-bit integers. Its normalization and head keep 32 bits.

    Args:
        network: The network.
        fields: Calibration fields, uint8 of shape ``(n, channels, size, size)``. They set the range of each value.

    Returns:
        The quantized network.

    Raises:
        ExportError: If the network cannot be converted.
        MissingExtraError: If a library is not installed.
    """
    channels, size = fields.shape[1:3]
    graph = onnx_graph(PixelsToOutputs(network), channels=channels, size=size, outputs=("logits", "features"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # NNCF imports PyTorch's compiler of extensions, which warns if there is no CUDA.
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            import nncf
            import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Quantizing a network needs the library {error.name}.", hint=installing("engines")
        ) from error
    nncf.set_log_level(logging.ERROR)
    try:
        # NNCF prints bars of its progress.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            quantized = nncf.quantize(
                openvino.Core().read_model(model=graph, weights=b""),
                nncf.Dataset([fields[row : row + 1] for row in range(len(fields))]),
                subset_size=len(fields),
                preset=nncf.QuantizationPreset.MIXED,
                fast_bias_correction=False,
                ignored_scope=nncf.IgnoredScope(patterns=[".*head.*", ".*normalize.*"], validate=False),
            )
            with tempfile.TemporaryDirectory() as place:
                xml = Path(place) / "int8.xml"
                openvino.save_model(quantized, xml, compress_to_fp16=False)
                return Int8Graph(xml.read_bytes(), xml.with_suffix(".bin").read_bytes())
    # Operations that NNCF or OpenVINO lack raise different exceptions of these libraries.
    except Exception as error:
        raise ExportError(
            f"The network cannot be quantized: {first_line(error)}.", hint="Write the bundle without int8 networks."
        ) from error


def int8_engine(graph: Int8Graph) -> Engine:
    """Return the engine of a quantized network.

    Args:
        graph: The quantized network.

    Returns:
        The engine, which computes with OpenVINO on the CPU.

    Raises:
        ExportError: If this release of OpenVINO cannot compute the network.
    """
    import openvino

    from cytoloc.predict.engines.openvino import OpenVinoEngine

    try:
        model = openvino.Core().read_model(model=graph.xml, weights=graph.weights)
        engine = OpenVinoEngine(model)
        shape = [int(edge) for edge in list(model.input(0).partial_shape.get_min_shape())[1:]]
        engine(torch.from_numpy(np.zeros((1, *shape), np.uint8)))
    # Reading, compiling and computing raise different exceptions of OpenVINO.
    except Exception as error:
        raise ExportError(
            f"OpenVINO cannot compute the int8 network: {first_line(error)}.",
            hint="Use precision='float32', or bundle the runs again.",
        ) from error
    return engine
