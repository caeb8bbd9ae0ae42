"""Whether the C library keeps freed memory for the next batch, or returns it to the system."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from typing import Final

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""As in glibc's ``malloc.h``."""

_LARGEST_INT: Final = 2**31 - 1

_PAD_BYTES: Final = 256 * 2**20
"""Memory that is requested from the system at once."""


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Let this process keep the memory that it frees; return whether it does.

    A training step frees and allocates gigabytes in large pieces. By default glibc returns them to the system, which
    fills every page with zeros before it is used again; research/benchmarks.md has the effect. The setting concerns the
    whole process, so only the commands that train and predict, and the processes of :mod:`cytoloc.parallel`, use it.
    Other C libraries, and glibc where the environment tunes it, are left as they are.
    """
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ)
    if tuned or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        [
            # Large pieces are not mapped separately, which would return them as soon as they are free.
            mallopt(_MMAP_MAX, 0),
            mallopt(_TRIM_THRESHOLD, _LARGEST_INT),
            mallopt(_TOP_PAD, _PAD_BYTES),
        ]
    )


def hand_back_freed_memory() -> bool:
    """Return freed memory of this process to the system; return whether this was possible.

    Pieces of many sizes leave gaps that glibc keeps. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
