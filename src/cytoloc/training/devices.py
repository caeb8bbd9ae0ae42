"""What a run computes on, and what that can do."""

from __future__ import annotations

from typing import Final, Literal

import torch

from cytoloc.errors import TrainingError

PRECISION: Final[dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}
"""Lightning's name of each precision."""


def accelerator() -> str:
    """Return the best kind of device of this machine: ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def refuse_precision(precision: str, device: str) -> None:
    """Raise :class:`TrainingError` if a kind of device does not train in a precision.

    ``float16`` loses small gradients unless they are scaled, which is done on CUDA devices alone; Lightning would take
    ``bfloat16`` instead.
    """
    if precision == "float16" and device != "cuda":
        raise TrainingError(
            f"compute.precision is 'float16', which trains on CUDA GPUs; this machine has a {device} device.",
            hint="Use --set compute.precision=float32, or bfloat16.",
        )
