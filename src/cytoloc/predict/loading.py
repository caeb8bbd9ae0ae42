"""Loading of models: the built-in model, a bundle, a run, or a folder of runs."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch

from cytoloc.choices import Resample, refuse_unknown
from cytoloc.errors import ArgumentTypeError
from cytoloc.predict.bundle import bundle_path, read_bundle
from cytoloc.predict.engines.engine import ModelPrecision
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import Unusual
from cytoloc.predict.runs import read_runs


def load(
    path: str | Path = "builtin",
    *,
    device: str | torch.device | None = None,
    precision: ModelPrecision = "float32",
    engine: str = "auto",
    unusual: Unusual = "mark",
    resample: Resample | None = None,
) -> Model:
    """Load a model.

    Args:
        path: ``"builtin"`` for the built-in model, ``"builtin-protein-nucleus"`` or ``"builtin-protein"`` for the ones
            that need fewer channels, a ``.cytoloc`` bundle, a run, or a folder of runs, whose probabilities are
            averaged.
        device: ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``. Default: the fastest one available.
        precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``. The last two are faster on devices that support them.
            ``"int8"`` computes with the int8 networks of a bundle, on the CPU with the engine openvino.
        engine: The library that computes the networks: ``"torch"``, ``"openvino"`` or ``"onnx"`` (ONNX Runtime). The
            last two compute on the CPU, faster than PyTorch. ``"auto"`` takes the fastest one that is installed and
            whose probabilities equal those of PyTorch to 1e-4. It computes few fields with PyTorch, because converting
            the networks takes longer than it saves.
        unusual: What to do with fields whose images are unlike the training images. ``"mark"`` predicts their
            probabilities, states what is unusual in ``cautions``, and decides on no location. ``"refuse"`` stops.
            ``"decide"`` marks them, and decides on their locations too. Only bundles have statistics of their training
            images.
        resample: How larger images are scaled down: by ``"area"`` means, or by the ``"nearest"`` pixel. Default: as the
            images that the model was trained on; by area if that is unknown.

    Returns:
        The model.

    Raises:
        ArgumentTypeError: If ``path`` is not a path.
        FormatError: If there is no bundle and no finished run.
        SettingsError: If the device or precision is not available, or the runs differ in image size, channels or
            test-time augmentation.
        MissingExtraError: If the library of the engine is not installed.
        LabelSetError: If the runs have different label sets.

    Examples:
        >>> load("builtin", device="cpu")
        Model(1 network, microtubules, protein, nucleus, er at 128 px, hpa28, with a decision, on cpu)
    """
    if not isinstance(path, str | Path):
        raise ArgumentTypeError(f"`path` must be a string or a Path, not {type(path).__name__}.")
    path = bundle_path(path)
    info, networks, decision = read_runs(path) if path.is_dir() else read_bundle(path)
    if resample is not None:
        refuse_unknown(resample, get_args(Resample), argument="resample")
    model = Model(networks, info, decision=decision, device=device, precision=precision, engine=engine, unusual=unusual)
    model.resample = resample
    return model
