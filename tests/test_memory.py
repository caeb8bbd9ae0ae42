"""Freed memory is kept by the process or handed back, as the C library itself tells."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from cytoloc.memory import hand_back_freed_memory, keep_freed_memory

CHILD = """
import ctypes
import sys

from cytoloc.memory import keep_freed_memory

NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Counts
print(keep_freed_memory() if sys.argv[1] == "kept" else False)
apart = libc.mallinfo2().hblks
piece = libc.malloc(200 * 2**20)
print(libc.mallinfo2().hblks - apart)
before = libc.mallinfo2().arena
libc.free(piece)
print(libc.mallinfo2().arena - before)
"""


def child(how: str, **variables: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    call = [sys.executable, "-c", CHILD, how]
    run = subprocess.run(call, capture_output=True, text=True, check=True, env=clean | variables)
    return run.stdout.split()


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


@glibc
def test_a_large_piece_is_not_lent_apart_and_stays_when_it_is_freed() -> None:
    done, lent_apart, more = child("kept")
    assert (done, int(lent_apart), int(more)) == ("True", 0, 0)
    done, lent_apart, _ = child("as it is")
    assert done == "False"
    assert int(lent_apart) == 1


@glibc
def test_an_environment_that_tunes_it_is_left_as_it_is() -> None:
    done, lent_apart, _ = child("kept", MALLOC_ARENA_MAX="2")
    assert done == "False"
    assert int(lent_apart) == 1


def test_another_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory({})


GAPS = """
from pathlib import Path

from cytoloc.memory import hand_back_freed_memory


def resident_mb():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


pieces = [bytes([1]) * 40_000 for _ in range(2000)]
# Between what is freed something stays, so that glibc cannot hand back the end of it all.
stay = pieces[::20]
del pieces
before = resident_mb()
print(hand_back_freed_memory(), before - resident_mb() > 50)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_gaps_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_another_c_library_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not hand_back_freed_memory()
