from __future__ import annotations

import numpy as np
import pytest

from cytoloc.errors import TableError
from cytoloc.labels import LOCATIONS, TRAINING_COUNTS, from_matrix, parse_labels, to_matrix


def test_locations_are_numbered_in_order_and_have_different_names() -> None:
    assert [int(location.key) for location in LOCATIONS] == list(range(28))
    assert len({location.name for location in LOCATIONS}) == 28
    assert sum(not location.go_id for location in LOCATIONS) == 1


def test_training_counts_add_up_to_the_labels_of_the_competition() -> None:
    # 15,126 fields with one label, 12,485 with two, 3,160 with three, 299 with four, 2 with five.
    assert sum(TRAINING_COUNTS) == 15126 + 2 * 12485 + 3 * 3160 + 4 * 299 + 5 * 2


@pytest.mark.parametrize("text", ["", "  ", "28", "9" * 5000, "-1", "1.5", "a", "3 3", "²"])
def test_bad_labels_are_refused_with_their_place(text: str) -> None:
    with pytest.raises(TableError, match="row 5"):
        parse_labels(text, where="row 5")


def test_matrix_round_trip() -> None:
    labels = [(0, 16), (), (27,)]
    matrix = to_matrix(labels)
    assert matrix.shape == (3, 28)
    assert matrix.dtype == np.bool_
    assert from_matrix(matrix) == labels
