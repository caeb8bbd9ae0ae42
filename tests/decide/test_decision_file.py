from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloc.choices import Method
from cytoloc.decide import fit_decision
from cytoloc.decide.decision import read_decision, with_provenance, write_decision
from cytoloc.errors import FormatError, LabelSetError, SettingsError, TableError
from cytoloc.labels import LabelSet
from tests.decide.cases import study_of

OWN = LabelSet.from_names([f"Place {number}" for number in range(28)], name="own")


def test_other_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"format": "cytoloc-decision", "version": 2}))
    with pytest.raises(FormatError, match="version 2; this release reads version 1"):
        read_decision(path)


def test_the_label_set_is_kept(tmp_path: Path) -> None:
    members, truth = study_of(0, 60)
    write_decision(fit_decision(members, truth, label_set=OWN, intervals=False), tmp_path / "own.json")
    assert read_decision(tmp_path / "own.json").label_set == OWN
    write_decision(fit_decision(members, truth, intervals=False), tmp_path / "numbered.json")
    assert read_decision(tmp_path / "numbered.json").label_set == LabelSet.numbered(28)
    content = json.loads((tmp_path / "own.json").read_text())
    locations = content["label_set"]["locations"]
    for change in ({"locations": locations[:-1]}, {"locations": locations[:1]}, {"name": None}, {"locations": None}):
        (tmp_path / "damaged.json").write_text(json.dumps({**content, "label_set": {**content["label_set"], **change}}))
        with pytest.raises(FormatError, match="is damaged"):
            read_decision(tmp_path / "damaged.json")


def test_a_decision_is_of_as_many_locations_as_the_probabilities() -> None:
    members, truth = study_of(0, 60)
    with pytest.raises(LabelSetError, match="28 columns; the label set is hpa19"):
        fit_decision(members, truth, label_set=LabelSet.hpa19())
    decision = fit_decision(members, truth, intervals=False)
    with pytest.raises(TableError, match="these probabilities have 20 columns"):
        decision({name: values[:, :20] for name, values in members.items()})


def test_two_and_three_locations_are_enough(tmp_path: Path) -> None:
    for count in (2, 3):
        members, truth = study_of(1, 80)
        few = {name: values[:, :count] for name, values in members.items()}
        for method in ("grid", "expected", "auto"):
            decision = fit_decision(few, truth[:, :count], method=method)
            assert decision.rules.most == count
            assert decision(few).shape == (80, count)
            write_decision(decision, tmp_path / f"{count}{method}.json")
            np.testing.assert_array_equal(read_decision(tmp_path / f"{count}{method}.json")(few), decision(few))
        with pytest.raises(SettingsError, match=f"at most {count + 1} locations"):
            fit_decision(few, truth[:, :count], most=count + 1)


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
    assert (content["format"], content["version"]) == ("cytoloc-decision", 1)


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
    with pytest.raises(SettingsError, match="at most 0"):
        fit_decision(members, truth, most=0)
    with pytest.raises(TableError, match="from 0 to below 1"):
        fit_decision(members, truth, method="fixed", fixed=1.0)
    with pytest.raises(TableError, match="28 ratios"):
        fit_decision(members, truth, method="ratio", ratios=np.full(28, 2.0))
    with pytest.raises(SettingsError, match="'grid' does not use 'fixed'"):
        fit_decision(members, truth, method="grid", fixed=0.9)
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
