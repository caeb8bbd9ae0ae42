"""The choice of an engine, and the check that it computes what PyTorch computes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final, Literal, cast, get_args

import numpy as np
import torch

from cytoloc.choices import refuse_unknown
from cytoloc.errors import EngineWarning, ExportError, MissingExtraError, SettingsError, installing
from cytoloc.models.devices import Precision, autocast
from cytoloc.models.graphs import is_graph
from cytoloc.models.network import Network
from cytoloc.predict.engines.engine import (
    PARITY,
    Engine,
    EngineName,
    ModelPrecision,
    Outputs,
    PixelsToOutputs,
    TorchEngine,
)
from cytoloc.predict.engines.graph import onnx_graph
from cytoloc.predict.engines.int8 import Int8Graph, int8_engine

EngineChoice = Literal["auto", "torch", "openvino", "onnx"]
"""An engine, or ``auto`` for the fastest one that is installed and exact."""

LIBRARIES: Final[dict[Literal["openvino", "onnx"], str]] = {"openvino": "openvino", "onnx": "onnxruntime"}
"""The library of each engine other than torch, the fastest one first."""

FEATURE_PARITY: Final = 0.001
"""Largest difference of features between an engine and PyTorch, as a share of the largest feature."""

WORTH_CONVERTING: Final = 32
"""Number of fields from which ``auto`` converts networks. Fewer fields take PyTorch less time than the conversion."""


def check_engine(engine: str, *, device: torch.device, precision: ModelPrecision) -> EngineChoice:
    """Return an engine if it can compute on a device in a precision.

    Args:
        engine: The name of an engine, or ``"auto"``.
        device: The device.
        precision: The precision.

    Returns:
        The engine. For int8 networks this is openvino.

    Raises:
        SettingsError: If the engine is unknown, or cannot compute on the device or in the precision.
        MissingExtraError: If the engine's library is not installed.
    """
    refuse_unknown(engine, get_args(EngineChoice), argument="engine")
    chosen = cast(EngineChoice, engine)
    if precision == "int8":
        if device.type != "cpu" or chosen not in ("auto", "openvino"):
            raise SettingsError(
                f"The int8 networks are computed on the CPU by openvino, not on {device} by {chosen}.",
                hint="Use device='cpu' and engine='openvino', or precision='float32'.",
            )
        chosen = "openvino"
    if chosen == "auto" or chosen == "torch":
        autocast(device, cast(Precision, precision))  # raises if the device does not support the precision
        return chosen
    if device.type != "cpu" or precision not in ("float32", "int8"):
        raise SettingsError(
            f"The engine {chosen} computes on the CPU in float32, not on {device} in {precision}.",
            hint="Use the engine torch, or device='cpu' and precision='float32'.",
        )
    if find_spec(LIBRARIES[chosen]) is None:
        raise MissingExtraError(
            f"The engine {chosen} needs the library {LIBRARIES[chosen]}.", hint=installing("engines")
        )
    return chosen


def candidates(engine: EngineChoice, *, device: torch.device, precision: Precision) -> list[EngineName]:
    """Return the engines to try, the fastest first.

    Args:
        engine: A checked engine, or ``"auto"``.
        device: The device.
        precision: The precision.

    Returns:
        The names of the engines. PyTorch comes last for ``"auto"``, because it can compute every network.
    """
    if engine != "auto":
        return [engine]
    can_convert = device.type == "cpu" and precision == "float32" and find_spec("onnx") is not None
    installed = [name for name, library in LIBRARIES.items() if can_convert and find_spec(library)]
    return [*installed, "torch"]


def build_engines(
    networks: Sequence[Network], engine: EngineName, *, device: torch.device, precision: Precision, size: int
) -> list[Engine]:
    """Build an engine for each network, and check that its probabilities equal those of PyTorch.

    Args:
        networks: The networks.
        engine: The engine.
        device: The device.
        precision: The precision.
        size: Edge length of fields, in pixels.

    Returns:
        The engines, in the order of the networks.

    Raises:
        ExportError: If a network cannot be converted, or the engine cannot compute it or computes other values.
    """
    reference = [TorchEngine(network, device=device, precision=precision) for network in networks]
    if engine == "torch":
        return list(reference)
    if any(is_graph(network) for network in networks):
        # Their backbone runs ONNX Runtime.
        return [TorchEngine(network, device=device, precision="float32") for network in networks]
    built: list[Engine] = []
    for network, exact in zip(networks, reference, strict=True):
        channels = network.normalize.mean.shape[1]
        graph = onnx_graph(PixelsToOutputs(network), channels=channels, size=size, outputs=("logits", "features"))
        fields = probe_fields(channels, size)
        expected = exact(fields)
        one, found = _opened(engine, graph, fields)
        largest = expected.features.abs().max().clamp(min=1e-12)
        for what, limit, same, other in (
            ("probabilities", PARITY, expected.logits.sigmoid(), found.logits.sigmoid()),
            ("features", FEATURE_PARITY, expected.features / largest, found.features / largest),
        ):
            if other.shape != same.shape:
                raise ExportError(
                    f"The engine {engine} computes {what} of the shape {(*other.shape,)}, not {(*same.shape,)}.",
                    hint="Use the engine torch.",
                )
            difference = float((same - other).abs().max())
            if not difference <= limit:
                raise ExportError(
                    f"The engine {engine} computes {what} that differ from those of PyTorch by {difference:.2g}.",
                    hint="Use the engine torch.",
                )
        built.append(one)
    return built


class EngineSet:
    """The engines of a model. An engine is built when it is first used.

    Args:
        networks: The networks, on the device.
        engine: The name of an engine, or ``"auto"``.
        device: The device.
        precision: The default precision.
        size: Edge length of fields, in pixels.
        int8: The int8 networks; none if there are none.

    Attributes:
        used: The engine that was used last, with its precision if it is not float32, such as ``"openvino, int8"``.

    Raises:
        SettingsError: If the engine is unknown, or cannot compute on the device or in the precision.
        MissingExtraError: If the engine's library is not installed.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        engine: str,
        *,
        device: torch.device,
        precision: ModelPrecision,
        size: int,
        int8: Sequence[Int8Graph] = (),
    ) -> None:
        self._int8 = int8
        self._chosen = engine
        self._device = device
        self._check(precision)
        self._networks = networks
        self._precision: ModelPrecision = precision
        self._size = size
        self._built: dict[tuple[EngineName, ModelPrecision], list[Engine]] = {}
        self._refused: set[EngineName] = set()
        self.used: str = "torch"
        self._is_graph = any(is_graph(network) for network in networks)
        if self._is_graph and engine not in ("auto", "onnx"):
            raise SettingsError(
                f"The model was published as an ONNX graph. The engine {engine} does not compute it, and it cannot be"
                " exported again.",
                hint="Predict with the engine onnx or auto. Export is not needed: use the published file.",
            )
        if self._is_graph:
            self._check_graph(precision)

    def of(self, views: int, precision: ModelPrecision | None = None) -> list[Engine]:
        """Return an engine for each network.

        Args:
            views: The number of images that will be computed. ``auto`` computes few of them with PyTorch.
            precision: The precision. Default: the precision of the model.

        Returns:
            The engines, in the order of the networks.

        Raises:
            ExportError: If the engine that was asked for cannot compute the networks.
            SettingsError: If the engine or the device does not support the precision.

        Warns:
            EngineWarning: If ``auto`` skips an engine.
        """
        precision = precision or self._precision
        if self._is_graph:
            self._check_graph(precision)
            return self._engines("onnx", "float32")
        chosen = self._check(precision)
        if precision == "int8":
            return self._engines("openvino", precision)
        names = candidates(chosen, device=self._device, precision=precision)
        if chosen == "auto" and views < WORTH_CONVERTING and (names[0], precision) not in self._built:
            names = ["torch"]
        names = [name for name in names if name not in self._refused]
        for name in names[:-1]:
            try:
                return self._engines(name, precision)
            except ExportError as error:
                self._refused.add(name)
                warnings.warn(f"The engine {name} is skipped. {error.message}", EngineWarning, stacklevel=4)
        return self._engines(names[-1], precision)

    @staticmethod
    def _check_graph(precision: ModelPrecision) -> None:
        """Raise if a precision is not the one of published ONNX graphs."""
        if precision != "float32":
            raise SettingsError(
                f"A model that was published as ONNX computes in float32, not in {precision}.",
                hint="Use precision='float32'.",
            )

    def _check(self, precision: ModelPrecision) -> EngineChoice:
        """Return the engine for a precision; raise if it is impossible."""
        chosen = check_engine(self._chosen, device=self._device, precision=precision)
        if precision == "int8" and not self._int8:
            raise SettingsError(
                "The bundle has no int8 networks.",
                hint="Use precision='float32', or write a bundle with `cytoloc bundle --int8 DATASET`.",
            )
        return chosen

    def _engines(self, name: EngineName, precision: ModelPrecision) -> list[Engine]:
        if (name, precision) not in self._built:
            self._built[name, precision] = (
                [int8_engine(graph) for graph in self._int8]
                if precision == "int8"
                else build_engines(self._networks, name, device=self._device, precision=precision, size=self._size)
            )
        self.used = name if precision == "float32" else f"{name}, {precision}"
        return self._built[name, precision]


def _opened(engine: EngineName, graph: bytes, fields: torch.Tensor) -> tuple[Engine, Outputs]:
    """Return the engine of a graph, and its outputs for some fields. The library is imported here: it is optional."""
    try:
        opened: Engine
        if engine == "openvino":
            from cytoloc.predict.engines.openvino import OpenVinoEngine

            opened = OpenVinoEngine(graph)
        else:
            from cytoloc.predict.engines.onnx import OnnxEngine

            opened = OnnxEngine(graph)
        return opened, opened(fields)
    # A graph with an operation that the library lacks raises different exceptions of the library.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ExportError(
            f"The engine {engine} cannot compute this network: {reason}.", hint="Use the engine torch."
        ) from error


def probe_fields(channels: int, size: int) -> torch.Tensor:
    """Return fields with structure at all scales, uint8 of shape ``(3, channels, size, size)``.

    Graphs are made from two fields. With another number, a graph that only takes two is detected.
    """
    rng = np.random.default_rng(0)
    smooth = torch.from_numpy(rng.random((3, channels, 8, 8), np.float32))
    fine = torch.from_numpy(rng.random((3, channels, size, size), np.float32))
    large = torch.nn.functional.interpolate(smooth, size=size, mode="bilinear")
    return (255 * large * (0.5 + 0.5 * fine)).to(torch.uint8)
