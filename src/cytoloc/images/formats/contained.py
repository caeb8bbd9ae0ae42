"""Reading of files in a process of its own, so that a decoder that crashes costs one file, not the whole command.

Decoders in C can end their process when a file is damaged. A file is read by one process from opening to closing. The
process is kept for the next file. If it ends, the file is named, and the next file gets a new process.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cytoloc.errors import CytolocError, ImageError
from cytoloc.images.decoding import decoding
from cytoloc.images.formats.scene import ImageFile, Scene

LONGEST_S: Final = 300.0
"""Maximum time for opening a file or reading a plane, in seconds. A reader that needs longer is in an endless loop."""

Opener = Callable[[Path], ImageFile]
"""A function that opens a file. It must be at the top level of a module, because it is sent to another process."""

_START: Final = (
    "import pickle, sys\n"
    "sys.path[:] = pickle.load(sys.stdin.buffer)\n"
    "from cytoloc.images.formats.contained import serve\n"
    "serve()\n"
)


class ContainedFile:
    """An open image file that another process reads.

    Args:
        path: The file.
        opener: The function that opens it.

    Raises:
        ImageError: If the file cannot be opened, or its reader crashes.
    """

    def __init__(self, path: Path, opener: Opener) -> None:
        self.path = path
        self._process: _Process | None = _process()
        try:
            self.scenes: tuple[Scene, ...] = self._ask("open", path, opener)
        except BaseException:
            self.close()
            raise

    def plane(self, scene: int, *, channel: int, depth: int = 0, time: int = 0, page: int = 0) -> NDArray[Any]:
        """Return one plane, shape ``(height, width)``."""
        plane: NDArray[Any] = self._ask(
            "plane", scene, {"channel": channel, "depth": depth, "time": time, "page": page}
        )
        return plane

    def close(self) -> None:
        """Close the file, and keep the process for another file."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.ask("close")
        except _CrashError:
            process.end()
        else:
            _IDLE.append(process)

    def _ask(self, *order: Any) -> Any:
        """Return the answer to an order; raise if the process ends."""
        if self._process is None:
            raise ImageError(f"{self.path} is closed, because its reader crashed.", hint="Open the file again.")
        try:
            return self._process.ask(*order)
        except _CrashError as error:
            self._process = None
            raise ImageError(
                f"{self.path} could not be read: the reader of this kind of file {error}.",
                hint="Open the file in the program that wrote it, and export it as OME-TIFF.",
            ) from None
        except BaseException as error:
            # An interruption leaves an answer in the pipe, which the next file must not get.
            if not isinstance(error, CytolocError):
                self._process.end()
                self._process = None
            raise


def _process() -> _Process:
    """Return a process that has no file: one that is idle and still runs, or a new one."""
    while _IDLE:
        process = _IDLE.pop()
        if process.runs:
            return process
        process.end()
    return _Process()


class _CrashError(Exception):
    """The end of a reading process, with the reason in words."""


class _Process:
    """A process that reads one file at a time."""

    def __init__(self) -> None:
        # A new interpreter, unlike multiprocessing, does not run the main module of the user again.
        self._popen = subprocess.Popen(  # noqa: S603  our own interpreter and code
            [sys.executable, "-c", _START], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if self._popen.stdin is None or self._popen.stdout is None:
            raise RuntimeError("The process has no pipes.")
        self._orders, self._answers = self._popen.stdin, self._popen.stdout
        self._late = False
        pickle.dump(sys.path, self._orders)

    @property
    def runs(self) -> bool:
        """Whether the process has not ended."""
        return self._popen.poll() is None

    def ask(self, *order: Any) -> Any:
        """Send an order and return the answer, or raise the error that it caused."""
        timer = Timer(LONGEST_S, self._stop)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump(order, self._orders, protocol=pickle.HIGHEST_PROTOCOL)
            self._orders.flush()
            answer = pickle.load(self._answers)  # noqa: S301  from our own process
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            timer.cancel()
            raise _CrashError(self.end()) from None
        finally:
            timer.cancel()
        if isinstance(answer, CytolocError):
            raise answer
        return answer

    def end(self) -> str:
        """End the process, and return how it ended in words."""
        for pipe in (self._orders, self._answers):
            try:
                pipe.close()
            except OSError:
                continue  # what could not be sent to a process that has ended
        try:
            code = self._popen.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = self._popen.wait()
        if self._late:
            return f"did not finish in {LONGEST_S:.0f} seconds"
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name if -code in {*signal.Signals} else str(-code)
        return f"crashed ({name})" if name != "SIGKILL" else "was killed, probably because memory ran out (SIGKILL)"

    def _stop(self) -> None:
        self._late = True
        self._popen.kill()


_IDLE: Final[list[_Process]] = []
"""Processes without a file. Appending to a list and removing from it are safe in threads."""


@atexit.register
def _end_all() -> None:
    while _IDLE:
        _IDLE.pop().end()


if hasattr(os, "register_at_fork"):
    # A copy of this process must not use the pipes of the original.
    os.register_at_fork(after_in_child=_IDLE.clear)


def serve() -> None:
    """Carry out the orders of another process until it ends. Its orders and our answers are pickles in two pipes."""
    # Ctrl-C is for the process that gives the orders. When it ends, there are no more orders.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Libraries that print must not disturb the answers.
    os.dup2(2, 1)
    image: ImageFile | None = None
    path = Path()
    while True:
        try:
            kind, *rest = pickle.load(orders)  # noqa: S301  from the process that started this one
        except EOFError:
            return
        answer: Any = None
        try:
            if kind == "open":
                path, opener = rest
                with decoding(path):
                    image = opener(path)
                    answer = image.scenes
            elif kind == "plane" and image is not None:
                with decoding(path):
                    answer = np.ascontiguousarray(image.plane(rest[0], **rest[1]))
            elif image is not None:
                image.close()
                image = None
        except CytolocError as error:
            answer = error
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
