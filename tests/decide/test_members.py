from __future__ import annotations

import numpy as np
import pytest

from cytoloc.decide import ensemble, member_contributions, member_correlations
from cytoloc.decide.ensembles import fit_ensemble
from cytoloc.decide.inputs import Bools, Floats, stack_members
from cytoloc.errors import ArgumentTypeError, LabelSetError, SettingsError, TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions
from tests.decide.cases import labels_of, study_of, tables_of


def test_members_are_correlated_on_the_fields_of_both() -> None:
    members, _ = study_of(0)
    tables = tables_of(members)
    tables["copy"] = tables["m0"][100:]
    tables["constant"] = tables_of({"constant": np.full_like(members["m0"], 0.3)})["constant"]
    found = member_correlations(tables)
    assert found[0, 3] == pytest.approx(1)
    assert 0 < found[0, 1] < 0.9
    assert np.isnan(found[4, :4]).all()
    np.testing.assert_array_equal(np.diag(found), 1)


def test_the_contribution_of_a_member_is_the_loss_without_it() -> None:
    members, truth = study_of(1, 800, members=2)
    members["noise"] = np.random.default_rng(0).random(truth.shape)
    tables, labels = tables_of(members), labels_of(truth)
    tables["m0"] = tables["m0"][50:]
    rows = {row.name: row for row in member_contributions(tables, labels)}
    assert rows["m0"].fields == 750
    assert rows["m0"].log_loss < rows["m1"].log_loss < rows["noise"].log_loss
    assert rows["noise"].log_loss == pytest.approx(1, abs=0.02)
    assert rows["m0"].contribution > rows["m1"].contribution > 0
    assert abs(rows["noise"].contribution) < 0.003
    assert rows["m0"].weight > rows["m1"].weight > rows["noise"].weight
    alone = member_contributions({"m1": tables["m1"]}, labels)[0]
    assert alone.contribution == pytest.approx(1 - alone.log_loss)
    with pytest.raises(TableError, match="'few' has 1 of the 800 labeled fields"):
        member_contributions({"m1": tables["m1"], "few": tables["m0"][:1]}, labels)


def test_fitted_ensembles_predict_each_labeled_field_by_a_fit_on_others() -> None:
    rng = np.random.default_rng(0)
    members: dict[str, Floats] = {name: rng.random((150, 28)) for name in "ab"}
    truth: Bools = rng.random((150, 28)) < 0.3
    tables, labels = tables_of(members), labels_of(truth[:120])
    stack = stack_members({name: values.astype(np.float32) for name, values in members.items()})
    found = ensemble(tables, method="stack", labels=labels)
    fitted = fit_ensemble("stack", np.ascontiguousarray(stack[:, :120]), truth[:120])(stack)
    # Noise: a fit agrees with the labels that it was fitted to, but not with others.
    seen = np.corrcoef(fitted[:120].ravel(), truth[:120].ravel())[0, 1]
    assert np.corrcoef(found.probabilities[:120].ravel(), truth[:120].ravel())[0, 1] < 0.1 < seen
    np.testing.assert_allclose(found.probabilities[120:], fitted[120:], atol=1e-6)
    plain = ensemble(tables)
    np.testing.assert_allclose(plain.probabilities, stack.mean(axis=0), rtol=1e-6)
    assert (plain.ids, plain.provenance["ensemble"]) == (tables["a"].ids, "mean")
    with pytest.raises(TableError, match="but found one"):
        ensemble(tables, method="weighted", labels=labels, groups=np.zeros(120, np.int64))


def test_bad_arguments_are_refused() -> None:
    members, truth = study_of(2, 40)
    tables = tables_of(members)
    other = Predictions(tables["m0"].ids, tables["m0"].probabilities[:, :19], LabelSet.hpa19())
    with pytest.raises(SettingsError, match="There is no ensemble method 'means'"):
        ensemble(tables, method="means")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="ensemble method 'stack' needs labels"):
        ensemble(tables, method="stack")
    with pytest.raises(ArgumentTypeError, match="`members` must be a mapping"):
        ensemble(list(tables.values()))  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="`labels` must be a dataset"):
        ensemble(tables, method="stack", labels=truth)  # type: ignore[arg-type]
    with pytest.raises(TableError, match="`labels` has no labels of the 40 predicted fields"):
        member_contributions(tables, {"elsewhere": (1,)})
    with pytest.raises(LabelSetError, match="the member 'b'"):
        ensemble({"a": tables["m0"], "b": other})
