from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloc.choices import Method
from cytoloc.decide import fit_decision
from cytoloc.decide.decision import read_decision, with_provenance, write_decision
from cytoloc.errors import FormatError, SettingsError, TableError
from tests.decide.cases import study_of

FIRST_VERSION = {
    "format": "cytoloc-decision",
    "version": 1,
    "method": "seed",
    "members": ["mean"],
    "thresholds": [0.3] * 27 + [1.0],
    "most": 2,
    "fill_blank": True,
    "fitted_on": {"fields": 10, "positives": [5] * 27 + [0]},
}
"""As the first version wrote it."""


def test_a_file_of_the_first_version_decides_as_it_did(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(FIRST_VERSION))
    decision = read_decision(path)
    probabilities = np.full((3, 28), 0.1)
    probabilities[0, [2, 5, 9]] = 0.6, 0.5, 0.4  # One more than the cap.
    probabilities[1, [3, 27]] = 0.2, 0.9  # Blank, and the last location was never seen.
    probabilities[2, 8] = 0.31
    found = [row.nonzero()[0].tolist() for row in decision({"mean": probabilities})]
    assert found == [[2, 5], [3], [8]]
    assert decision.fitted_on == FIRST_VERSION["fitted_on"]
    assert decision.rates[0] == 0.5
    write_decision(decision, tmp_path / "new.json")
    np.testing.assert_array_equal(
        read_decision(tmp_path / "new.json")({"mean": probabilities}), decision({"mean": probabilities})
    )


@pytest.mark.parametrize(
    "change", [{"fill_blank": "true"}, {"most": 0}, {"thresholds": [0.3]}, {"method": "best"}, {"members": None}]
)
def test_a_damaged_file_of_the_first_version_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**FIRST_VERSION, **change}))
    with pytest.raises(FormatError, match="damaged"):
        read_decision(path)


def test_other_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    path.write_text(json.dumps({**FIRST_VERSION, "version": 3}))
    with pytest.raises(FormatError, match="version 3; this release reads version 2"):
        read_decision(path)


METHODS: list[tuple[Method, dict[str, Any]]] = [
    ("global", {}), ("smooth", {}), ("fixed", {"fixed": 0.3}), ("ratio", {}), ("shrunk", {}), ("exact", {}),
    ("expected", {"calibration": "isotonic", "ensemble": "rank"}), ("expected", {"ensemble": "class"}),
    ("stack", {"cooccurrence": True, "blank": "margin"}), ("auto", {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_every_method_reads_back(tmp_path: Path, method: Method, options: dict[str, Any]) -> None:
    members, truth = study_of(0, 150)
    members["m1"][:20] = np.nan
    decision = with_provenance(fit_decision(members, truth, method=method, **options), note="x")
    write_decision(decision, tmp_path / "d.json")
    back = read_decision(tmp_path / "d.json")
    np.testing.assert_array_equal(back(members), decision(members))
    np.testing.assert_array_equal(back.probabilities(members), decision.probabilities(members))
    assert (back.method, back.members, back.plan, back.rules) == (
        decision.method, decision.members, decision.plan, decision.rules,
    )  # fmt: skip
    assert back.fitted_on == decision.fitted_on
    assert back.intervals is not None
    np.testing.assert_array_equal(back.intervals, decision.intervals)
    content = json.loads((tmp_path / "d.json").read_text())
    assert (content["format"], content["version"]) == ("cytoloc-decision", 2)


def test_a_file_from_before_members_could_go_unheard_decides_as_it_did(tmp_path: Path) -> None:
    members, truth = study_of(0, 100)
    decision = fit_decision(members, truth, method="expected", ensemble="weighted")
    write_decision(decision, tmp_path / "d.json")
    content = json.loads((tmp_path / "d.json").read_text())
    del content["evidence"]["ensemble"]["heard"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(read_decision(tmp_path / "old.json")(members), decision(members))


def test_a_decision_may_be_asked_for_shifted_frequencies() -> None:
    members, truth = study_of(1, 400)
    decision = fit_decision(members, truth, method="expected", intervals=False)
    often = np.concatenate([np.flatnonzero(truth[:, 15]).repeat(6), np.arange(400)])
    here = {name: each[often] for name, each in members.items()}
    plain, shifted = decision.probabilities(here), decision.probabilities(here, shift=True)
    assert shifted[:, 15].mean() > plain[:, 15].mean()
    assert abs(shifted[:, 15].mean() - truth[often, 15].mean()) < abs(plain[:, 15].mean() - truth[often, 15].mean())
    assert decision(here, shift=True)[:, 15].sum() != decision(here)[:, 15].sum()
    with pytest.raises(TableError, match="no calibrated probabilities"):
        fit_decision(members, truth, intervals=False)(members, shift=True)


def test_fields_of_a_group_are_decided_alike() -> None:
    members, truth = study_of(2, 100)
    decision = fit_decision(members, truth, method="expected", intervals=False)
    predicted = decision(members, groups=np.arange(100) // 2)
    np.testing.assert_array_equal(predicted[::2], predicted[1::2])


def test_options_that_make_no_sense_are_refused() -> None:
    members, truth = study_of(3, 30)
    with pytest.raises(TableError, match="at most 0"):
        fit_decision(members, truth, most=0)
    with pytest.raises(TableError, match="from 0 to below 1"):
        fit_decision(members, truth, method="fixed", fixed=1.0)
    with pytest.raises(TableError, match="28 ratios"):
        fit_decision(members, truth, method="ratio", ratios=np.full(28, 2.0))
    with pytest.raises(SettingsError, match="'seed' does not use 'fixed'"):
        fit_decision(members, truth, method="seed", fixed=0.9)
    with pytest.raises(SettingsError, match="'auto' does not use 'ratios'"):
        fit_decision(members, truth, method="auto", ratios=np.full(28, 0.1))
    given = fit_decision(members, truth, method="ratio", ratios=np.full(28, 0.1), most=28, fill_blank=False)
    assert given(members)[:, truth.any(axis=0)].sum(axis=0).tolist() == [3] * int(truth.any(axis=0).sum())
    assert fit_decision(members, truth, method="fixed", fixed=0.3).thresholds[0] == 0.3


def test_intervals_hold_the_threshold_and_narrow() -> None:
    widths = []
    for fields in (100, 1600):
        members, truth = study_of(4, fields)
        decision = fit_decision(members, truth, method="expected")
        assert decision.intervals is not None
        low, high = decision.intervals.T
        assert ((low <= decision.thresholds + 0.02) & (decision.thresholds <= high + 0.02)).mean() > 0.9
        widths.append(float((high - low).mean()))
    assert widths[1] < widths[0] / 2
