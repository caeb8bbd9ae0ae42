"""The built-in model: there, small, offline, and as good as its card says."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

import cytoloc
from cytoloc.channels import CHANNELS
from cytoloc.choices import BUILTINS
from cytoloc.decide.metrics import macro_f1
from cytoloc.errors import ChannelError, FormatError, ModelCaution
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from cytoloc.predict.bundle import builtin_bundle, open_bundle
from cytoloc.predict.model import Model
from cytoloc.predict.sources import KaggleFolderSource
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import plan_one
from tests.conftest import DATA, Cli

KAGGLE = DATA / "images" / "kaggle512"


@pytest.fixture(scope="module")
def model() -> Model:
    return cytoloc.load()


@pytest.mark.parametrize("name", BUILTINS)
def test_it_is_small_and_says_what_it_is(name: str, cli: Cli) -> None:
    assert builtin_bundle(name).stat().st_size <= 15e6
    page = "builtin.md" if name == "builtin" else "builtin-fewer-channels.md"
    card = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    bundle = open_bundle(builtin_bundle(name))
    assert bundle.card == card == cli("info", name).out
    assert bundle.header.caution in card
    assert "not for conclusions" in bundle.header.caution
    assert tuple(bundle.header.channels) == BUILTINS[name]


@pytest.mark.parametrize("name", ["builtin-protein-nucleus", "builtin-protein"])
def test_images_with_fewer_channels_have_models_of_their_own(name: str, tmp_path: Path) -> None:
    field = draw_field(plan_one(0, seed=1000, size=256), size=256)
    given = BUILTINS[name]
    few = field[[CHANNELS.index(channel) for channel in given]]
    with pytest.raises(ChannelError) as caught:
        cytoloc.load().predict(few, channels=given)
    assert f"such as {name}," in str(caught.value.hint)
    model = cytoloc.load(name)
    with pytest.warns(ModelCaution):
        found = model.predict(few, channels=given, tta=1)
    assert not found.cautions or not found.cautions[0]
    # Nucleoplasm is among the three most probable locations.
    assert (found.probabilities[0] > found.probabilities[0, 0]).sum() < 3
    assert model.embed(few, channels=given).shape == (1, 1280)
    assert model.explain(few, locations=["0"], channels=given, tta=1).maps.shape[-1] == 128
    # It finds its channels in a dataset of four.
    four = cytoloc.dataset_from_arrays(field[None], out=tmp_path / "four.dataset", channels=CHANNELS)
    with pytest.warns(ModelCaution):
        np.testing.assert_allclose(model.predict(four, tta=1).probabilities, found.probabilities, atol=1e-6)


def test_a_misspelled_name_gets_a_hint() -> None:
    with pytest.raises(FormatError) as caught:
        cytoloc.load("builtin-protien")
    assert "Did you mean builtin-protein" in str(caught.value.hint)


def test_it_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = cytoloc.load("builtin")
    with pytest.warns(ModelCaution, match="not for conclusions"):
        result = model.predict(draw_field(plan_one(0, seed=1000, size=256), size=256), tta=1)
    assert result.probabilities.shape == (1, 28)
    assert result.caution


def test_it_knows_simulated_cells(model: Model) -> None:
    # Fields of one location each, of a seed that it did not see.
    plain = (0, 1, 2, 4, 7, 14, 21, 25)
    fields = np.stack(
        [draw_field(plan_one(place, seed=1000 + k, size=256), size=256) for place in plain for k in (0, 1)]
    )
    with pytest.warns(ModelCaution):
        found = model.predict(fields, tta=2)
    ranks = (-found.probabilities).argsort(axis=1).argsort(axis=1)
    hits = [ranks[row, plain[row // 2]] < 3 for row in range(len(fields))]
    assert np.mean(hits) > 0.6


@pytest.mark.slow
@pytest.mark.skipif(not KAGGLE.exists(), reason=f"{KAGGLE} is not there")
@pytest.mark.parametrize(
    ("name", "score"), [("builtin", 0.234), ("builtin-protein-nucleus", 0.236), ("builtin-protein", 0.193)]
)
def test_figures_on_real_fields_are_those_of_the_card(name: str, score: float) -> None:
    model = cytoloc.load(name)
    predictions = model.predict_sources([KaggleFolderSource(KAGGLE)])
    truth = LabelSet.hpa28().to_matrix(
        [read_labels(KAGGLE.with_suffix(".csv"), LabelSet.hpa28())[name] for name in predictions.ids]
    )
    assert model.decision is not None
    assert macro_f1(model.decision.decide_calibrated(predictions.probabilities), truth) == pytest.approx(
        score, abs=0.005
    )
