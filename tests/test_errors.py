from __future__ import annotations

import pickle

import pytest

from cytoloc import errors

KINDS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.CytolocError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_come_back_whole_from_another_process(kind: type[errors.CytolocError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a.png is empty.", hint="Copy it again.")))
    assert type(error) is kind
    assert (error.message, error.hint) == ("a.png is empty.", "Copy it again.")
    assert str(error) == "a.png is empty.\n  Copy it again."
    assert error.exit_code == kind.exit_code
