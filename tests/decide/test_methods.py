from __future__ import annotations

import pytest

from cytoloc.decide import Auto, ExpectedF1, Fixed, Grid, Ratio, Rules, Shrunk, Stack, method_named
from cytoloc.decide.methods import METHODS
from cytoloc.errors import SettingsError


def test_methods_are_values_with_names() -> None:
    assert method_named("grid") == Grid()
    assert method_named("auto") == Auto()
    assert method_named("fixed", threshold=0.3, ensemble=None) == Fixed(threshold=0.3)
    assert method_named("stack", precision=30) == Stack(precision=30) != Stack()
    assert (Grid().name, ExpectedF1().name, Stack(precision=30).name) == (
        "mean + grid", "mean + platt + expected", "stack 30 + expected",
    )  # fmt: skip
    assert [method_named(word).word for word in METHODS] == list(METHODS)
    assert (Shrunk() == Grid(), Grid(ensemble="rank").fits_probabilities, Grid().is_calibrated) == (False, True, False)


@pytest.mark.parametrize(
    ("word", "options", "message"),
    [
        ("gird", {}, "no method 'gird'. Did you mean grid"),
        ("grid", {"threshold": 0.9}, "'grid' has no option 'threshold'"),
        ("auto", {"ensemble": "mean"}, "'auto' has no option 'ensemble'"),
        ("stack", {"ensemble": "rank"}, "'stack' has no option 'ensemble'"),
        ("grid", {"calibration": "plat"}, "no calibration 'plat'. Did you mean platt"),
        ("fixed", {"threshold": 1.0}, "from 0 to below 1"),
        ("ratio", {"ratios": [2.0]}, "one share from 0 to 1"),
        ("stack", {"precision": 0}, "greater than 0"),
        ("auto", {"max_fields": 1}, "3 or more"),
    ],
)
def test_unknown_methods_and_options_are_refused(word: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        method_named(word, **options)


def test_ratios_may_be_any_sequence() -> None:
    assert Ratio(ratios=[0.5, 0.25]).ratios == (0.5, 0.25)


@pytest.mark.parametrize(
    "rules", [{"max_locations": 0}, {"blank": "margins"}, {"shrink": (-1.0,)}, {"exclusive": ((1, 2, 3),)}]
)
def test_rules_are_checked(rules: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        Rules(**rules)  # type: ignore[arg-type]
