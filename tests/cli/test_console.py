"""A request to stop is one, whatever a library makes of it."""

from __future__ import annotations

import signal
import threading

import pytest

from cytoloc.cli.console import terminated_as_interrupted


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_an_error_that_a_stop_caused_is_a_stop() -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ImportError, match="no such library"), terminated_as_interrupted():
        raise ImportError("no such library")
