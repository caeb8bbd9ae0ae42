"""Control of whether the C library keeps freed memory, or returns it to the system."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from typing import Final

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Constants of glibc's ``malloc.h``."""

_LARGEST_INT: Final = 2**31 - 1

_PAD_BYTES: Final = 256 * 2**20
"""Amount of memory that is requested from the system at once."""


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Make this process keep the memory that it frees.

    A training step frees and allocates gigabytes in large pieces. By default glibc returns them to the system, which
    then clears every page before it is used again; research/benchmarks.md shows the effect. The setting affects the
    whole process, so only the commands for training and prediction, and the processes of :mod:`cytoloc.parallel`, use
    it. Nothing is changed for other C libraries, or if the environment configures glibc.

    Args:
        environ: Environment variables.

    Returns:
        Whether the setting was changed.
    """
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ)
    if tuned or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        [
            # Large pieces are not mapped separately, because mapped pieces are returned when they are freed.
            mallopt(_MMAP_MAX, 0),
            mallopt(_TRIM_THRESHOLD, _LARGEST_INT),
            mallopt(_TOP_PAD, _PAD_BYTES),
        ]
    )


def hand_back_freed_memory() -> bool:
    """Return freed memory of this process to the system.

    Pieces of many sizes leave gaps that glibc keeps. Nothing is changed for other C libraries.

    Returns:
        Whether this was possible.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
