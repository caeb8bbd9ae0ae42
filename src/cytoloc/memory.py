"""How the C library treats memory that is freed: kept for the next batch, or handed back to the system."""

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
"""What is asked of the system at once."""


def keep_freed_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Let this process keep the memory that it frees; return whether it does.

    A step of training frees and takes gigabytes in large pieces. By default glibc hands these back to the system, which
    fills every page with zeros before it lends it again; docs/benchmarks.md says what keeping them is worth. It is a
    matter of the whole process, so the commands that learn and predict ask for it, and processes that
    :mod:`cytoloc.parallel` starts; no other function of the library does.
    Other C libraries are left as they are, and so is glibc where the environment tunes it.
    """
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in environ)
    if tuned or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(
        [
            # No piece is lent by the system apart from the rest, to be handed back as soon as it is free.
            mallopt(_MMAP_MAX, 0),
            mallopt(_TRIM_THRESHOLD, _LARGEST_INT),
            mallopt(_TOP_PAD, _PAD_BYTES),
        ]
    )


def hand_back_freed_memory() -> bool:
    """Give the system back what this process has freed; return whether it could.

    Pieces of many sizes, taken and freed by turns, leave gaps that glibc keeps, though nothing is in them. Other C
    libraries are left to themselves.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
