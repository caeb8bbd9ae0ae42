from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cytoloc.parallel import in_order


def test_results_keep_their_order() -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(in_order(slow_first, range(50))) == [number * number for number in range(50)]


def test_items_are_taken_only_a_little_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10_000):
            taken += 1
            yield number

    results = in_order(str, items())
    assert next(results) == "0"
    assert taken < 1000
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_out_and_a_lent_pool_stays_open() -> None:
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ZeroDivisionError):
            list(in_order(lambda number: 1 // number, [1, 0, 1], pool=pool))
        assert pool.submit(int, "3").result() == 3
