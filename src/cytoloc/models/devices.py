"""The devices that networks compute on, and the precisions that they support."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Literal, get_args

import torch

from cytoloc.choices import refuse_unknown
from cytoloc.errors import SettingsError

Precision = Literal["float32", "bfloat16", "float16"]
"""Floating-point precision of a backbone."""

DEVICE_KINDS: Final = ("cuda", "mps", "cpu")


def available_devices() -> tuple[str, ...]:
    """Return the kinds of devices of this machine, fastest first: ``cuda``, ``mps`` (Apple), ``cpu``."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(kind for kind in DEVICE_KINDS if here[kind])


def find_device(device: str | torch.device | None = None) -> torch.device:
    """Return a device of this machine.

    Args:
        device: A device such as ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``. Default: the fastest one available.

    Returns:
        The device.

    Raises:
        SettingsError: If the device is unknown or not available.

    Examples:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return torch.device(available_devices()[0])
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise SettingsError(
            f"`device` is {device!r}, which is not a device.",
            hint=f"Choose an available device: {', '.join(available_devices())}.",
        ) from error
    count = torch.cuda.device_count() if found.type == "cuda" else 1
    if found.type not in available_devices() or (found.index or 0) >= count:
        raise SettingsError(
            f"The device {device!s} is not available on this machine.",
            hint=f"Choose an available device: {', '.join(available_devices())}.",
        )
    return found


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return a context in which networks compute with a given precision.

    Args:
        device: The device.
        precision: The precision.

    Returns:
        A context manager.

    Raises:
        SettingsError: If the precision is unknown, or the device does not support it.
    """
    refuse_unknown(precision, get_args(Precision), argument="precision")
    if precision == "float32":
        return nullcontext()
    if precision == "float16" and device.type == "cpu":
        raise SettingsError(
            "`precision` is float16, which needs a GPU.", hint="Choose float32, or bfloat16 on a recent CPU."
        )
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float16)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let each thread compute with one core in the block, because several threads compute at the same time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
