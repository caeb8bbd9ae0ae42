"""Output of commands: a progress bar on a terminal, and plain lines otherwise."""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from cytoloc.errors import DatasetWarning, IdWarning, MissingExtraError, installing

if TYPE_CHECKING:
    from cytoloc.dataset.store import Dataset
    from cytoloc.predictions import Predictions

LINE_EVERY_S = 10.0


def as_flags(text: str) -> str:
    """Return a message of the library with options instead of arguments.

    >>> as_flags("Give `pixel_um`, `square='crop'` or `absent={'er': 'zero', 'nucleus': 'protein'}`.")
    'Give --pixel-um, --square crop or --absent er=zero,nucleus=protein.'
    """

    def flag(found: re.Match[str]) -> str:
        """Return the option for one argument; a dictionary is written as ``KEY=VALUE,KEY=VALUE``."""
        name, value = found[1].replace("_", "-"), found[2] or ""
        value = value.strip("{}'\"").replace("': '", "=").replace("', '", ",")
        return f"{'-' if len(name) == 1 else '--'}{name} {value}".rstrip()

    return re.sub(r"`([a-z][a-z_]*)(?:=([^`]*))?`", flag, text)


def note(text: str) -> None:
    """Print a message that the user should read."""
    typer.secho(as_flags(text), fg="yellow", err=True)


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Print the warnings of the library about data as notes, each once."""
    show = warnings.showwarning
    before: set[str] = set()

    def shown(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if not issubclass(category, IdWarning | DatasetWarning):
            show(message, category, *rest, **more)
        elif str(message) not in before:
            before.add(str(message))
            note(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", IdWarning)
        warnings.simplefilter("always", DatasetWarning)
        warnings.showwarning = shown
        yield


def on_terminal() -> bool:
    """Return whether the output is a terminal."""
    return sys.stderr.isatty()


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Provide a function that shows progress, called with the number of finished units and their total.

    It shows a progress bar on a terminal, otherwise one line every ten seconds.

    Args:
        what: The description of the progress, such as "Importing".

    Yields:
        The function.
    """
    started = last = time.monotonic()
    if not on_terminal():

        def advance_lines(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LINE_EVERY_S and done < total:
                last = now
                rate = done / (now - started)
                print(f"{what}: {done}/{total}, {rate:.1f}/s, {(total - done) / rate:.0f} s left", file=sys.stderr)

        yield advance_lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def advance(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=total, rate=f"{rate:.1f}/s")

        yield advance


@contextmanager
def progress_of_stages() -> Iterator[Callable[[str, int, int], None]]:
    """Provide a function that shows the progress of several stages, each with a progress bar of its own.

    Yields:
        A function that takes the name of the stage, the number of items done, and the number of all items.
    """
    with ExitStack() as bars:
        current, advance = "", None

        def advance_stage(what: str, done: int, total: int) -> None:
            nonlocal current, advance
            if advance is None or what != current:
                bars.close()
                current, advance = what, bars.enter_context(progress(what))
            advance(done, total)
            if done == total:
                bars.close()
                advance = None

        yield advance_stage


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C in the block. Clusters, `timeout` and `kill` send this signal to stop a command.

    Nothing changes if SIGTERM is ignored or has another handler.
    """
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    asked = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        # A second SIGTERM ends the process immediately.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            # Shells start background commands with SIGINT ignored.
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except Exception as error:
        # A library may raise any error if its import is interrupted.
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def counted(number: int, what: str, several: str = "") -> str:
    """Return a number with its noun, such as ``1 field`` or ``2 fields``; ``several`` is an irregular plural."""
    return f"{number} {what if number == 1 else several or what + 's'}"


def require_nets() -> None:
    """Raise unless the libraries for networks are installed."""
    missing = [name for name in ("torch", "timm", "pytorch_lightning") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"Training and prediction need {', '.join(missing)}, which is not installed.", hint=installing("nets")
        )


def warn_if_unfinished(dataset: Dataset) -> None:
    """Print a warning if a dataset has an unfinished import."""
    unfinished = dataset.manifest.unfinished
    if unfinished:
        note(
            f"{dataset.path} has an unfinished import; {unfinished.done} of {counted(unfinished.items, 'item')} are"
            " in the dataset. Rerun the import to add the others."
        )


def warn_if_trained_on(parts: Mapping[str, Predictions]) -> None:
    """Print a warning for each predictions file with fields that the model was trained on."""
    from cytoloc.predictions import training_caution

    for path, part in parts.items():
        seen = part.provenance.get("fields_trained_on", 0)
        if seen:
            print(
                f"Warning: {path}: the model was trained on {seen} of these {len(part)} fields, so metrics that include"
                " them are too high.",
                file=sys.stderr,
            )
        caution = training_caution(part)
        if caution:
            print(f"Warning: {path}: {caution}", file=sys.stderr)


def now_and_then() -> Callable[[str], None]:
    """Return a function that prints a line in addition to the progress, at most every ten seconds."""
    last = float("-inf")

    def say(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(line, file=sys.stderr)

    return say
