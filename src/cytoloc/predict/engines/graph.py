"""Conversion of networks to ONNX, which is exported and which the engines openvino and onnx compute."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from cytoloc.errors import ExportError, MissingExtraError, first_line, installing
from cytoloc.models.backbones import TokenMap
from cytoloc.models.graphs import is_graph

OPSET: Final = 17
"""Version of the ONNX operators."""


def onnx_graph(module: nn.Module, *, channels: int, size: int, outputs: Sequence[str]) -> bytes:
    """Convert a module to an ONNX graph with the input ``pixels``, whose batch size can vary.

    Args:
        module: A module from uint8 of shape ``(n, channels, size, size)`` to one tensor per output.
        channels: Number of channels.
        size: Edge length of fields, in pixels.
        outputs: The names of the outputs.

    Returns:
        The graph, as the content of an ``.onnx`` file.

    Raises:
        ExportError: If the module has an operation that ONNX lacks.
        MissingExtraError: If the library onnx is not installed.
    """
    if is_graph(module):
        raise ExportError(
            "The network was published as an ONNX graph, which cannot be converted again.",
            hint="Use the published file.",
        )
    example = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
    device = next((one.device for one in module.parameters()), torch.device("cpu"))
    try:
        with warnings.catch_warnings(), torch.inference_mode(), tempfile.TemporaryDirectory() as place:
            # Tracing warns about every Python condition. The graph is compared with the module afterwards.
            warnings.simplefilter("ignore")
            file = Path(place) / "model.onnx"
            torch.onnx.export(
                _of_one_size(module.eval(), example.to(device)),
                (example.to(device),),
                file,
                input_names=["pixels"],
                output_names=list(outputs),
                dynamic_axes={name: {0: "n"} for name in ("pixels", *outputs)},
                opset_version=OPSET,
                dynamo=False,  # takes 1 second; the newer exporter takes 15 seconds for the same graph
            )
            return file.read_bytes()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Converting a network needs the library {error.name}.", hint=installing("engines")
        ) from error
    # An unsupported operation raises different exceptions, depending on the stage that meets it.
    except Exception as error:
        raise ExportError(
            f"The network cannot be converted to ONNX: {first_line(error)}.", hint="Use the engine torch."
        ) from error


def _of_one_size(module: nn.Module, example: Tensor) -> nn.Module:
    """Return the module, or a copy whose vision transformers have positions for images of the size of an example."""
    if not any(isinstance(part, TokenMap) for part in module.modules()):
        return module
    fixed = copy.deepcopy(module)
    # What a transformer gets can be larger than the fields.
    hooks = [
        part.register_forward_pre_hook(lambda part, given: part.fix_size(*given[0].shape[2:]))
        for part in fixed.modules()
        if isinstance(part, TokenMap)
    ]
    fixed(example)
    for hook in hooks:
        hook.remove()
    return fixed
