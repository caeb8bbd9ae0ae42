from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from cytoloc.channels import CHANNELS
from cytoloc.dataset.store import Dataset
from cytoloc.decide import evaluate
from cytoloc.errors import SettingsError, UnknownIdError
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions
from cytoloc.report.figures import SheetField, SheetOptions, contact_sheet, draw_sheet, fold_sheet, score_plot
from cytoloc.report.panels import composite, legend, panel, shortened, stretch


def test_a_panel_shows_composite_protein_and_the_other_channels() -> None:
    image = np.zeros((4, 90, 90), np.uint8)
    for channel, value in enumerate((40, 80, 120, 160)):
        image[channel, :, : 20 * (channel + 1)] = value
    shown = panel(image, CHANNELS)
    # A gap of 1 px between them.
    assert shown.shape == (90, 90 + 1 + 90 + 1 + 29, 3)
    np.testing.assert_array_equal(shown[:, :90], composite(image, CHANNELS))
    np.testing.assert_array_equal(shown[:, 91:181, 0], stretch(image[1]))
    assert (shown[:, [90, 181]] == 255).all()
    # A third of the edge: microtubules, nucleus and endoplasmic reticulum are 20, 60 and 80 of 90 px wide.
    widths = [int((shown[row, 182:, 0] > 100).sum()) for row in (15, 45, 75)]
    assert np.abs(np.array(widths) - [20 / 3, 60 / 3, 80 / 3]).max() <= 1


def test_the_reticulum_adds_half_its_strength_in_yellow() -> None:
    image = np.zeros((4, 8, 8), np.uint8)
    image[3] = 200
    assert composite(image, CHANNELS)[0, 0].tolist() == [127, 127, 0]


def test_a_score_is_drawn_with_a_row_for_each_class_that_occurs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((60, 28)) < 0.2
    predicted = truth ^ (rng.random((60, 28)) < 0.05)
    sizes = []
    for classes in (28, 5):
        truth[:, classes:] = predicted[:, classes:] = False
        evaluation = evaluate(predicted, truth, label_set=LabelSet.hpa28(), groups=np.arange(60) // 2)
        score_plot(evaluation, tmp_path / "score.png")
        with Image.open(tmp_path / "score.png") as image:
            sizes.append(image.size)
            assert np.asarray(image.convert("RGB")).std() > 20
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] > 1.8 * sizes[1][1]
    for name, start in (("score.pdf", b"%PDF"), ("score.svg", b"<?xml")):
        score_plot(evaluation, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(SettingsError, match="not the name of a PNG"):
        score_plot(evaluation, tmp_path / "score.gif")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("0123456789", "0123456789"),
        ("0123456789a", "0123…6789a"),
        ("細胞細胞細", "細胞細胞細"),
        ("細胞細胞細胞", "細胞…細胞"),
    ],
)
def test_long_names_lose_their_middle(name: str, shown: str) -> None:
    assert shortened(name, 10) == shown


SIX = (*CHANNELS, "actin", "golgi")
OWN = LabelSet.from_names(["Nuclear rim", "Cytoplasm", "Spots"], name="own")


def test_each_channel_has_a_color_of_its_own() -> None:
    shown = []
    for number in range(len(SIX)):
        image = np.zeros((len(SIX), 8, 8), np.uint8)
        image[number] = 200
        shown.append(tuple(composite(image, SIX)[0, 0].tolist()))
    assert shown[:4] == [(254, 0, 0), (0, 254, 0), (0, 0, 254), (127, 127, 0)]
    assert len(set(shown)) == len(SIX)
    # A channel keeps its color, whatever stands beside it.
    image = np.zeros((2, 8, 8), np.uint8)
    image[1] = 200
    assert composite(image, ["protein", "nucleus"])[0, 0].tolist() == [0, 0, 254]


@pytest.mark.parametrize("channels", [("protein",), ("nucleus", "protein"), CHANNELS, (*CHANNELS, "actin"), SIX])
def test_a_panel_has_the_channels_that_there_are(channels: tuple[str, ...]) -> None:
    image = np.zeros((len(channels), 90, 90), np.uint8)
    for number in range(len(channels)):
        image[number, :, : 10 * (number + 1)] = 200
    shown = panel(image, channels)
    protein = stretch(image[channels.index("protein")])
    if channels == ("protein",):
        np.testing.assert_array_equal(shown[..., 0], protein)
        return
    np.testing.assert_array_equal(shown[:, :90], composite(image, channels))
    np.testing.assert_array_equal(shown[:, 91:181, 0], protein)
    others = [number for number, channel in enumerate(channels) if channel != "protein"]
    parts = max(len(others), 3)
    for place, number in enumerate(others):
        row = shown[round((place + 0.5) * 90 / parts), 182:, 0]
        assert abs(int((row > 100).sum()) - 10 * (number + 1) / parts) <= 1.5


def test_the_legend_names_channels_and_colors() -> None:
    assert legend(["protein"]) == "protein"
    assert legend(SIX) == (
        "left: composite (microtubules red, protein green, nucleus blue, er yellow, actin cyan, golgi magenta);"
        " middle: protein; right: microtubules, nucleus, er, actin, golgi"
    )


@pytest.mark.parametrize("channels", [("protein",), ("protein", "nucleus"), CHANNELS, (*CHANNELS, "actin")])
def test_fields_of_any_channels_are_drawn(tmp_path: Path, channels: tuple[str, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, len(channels), 32, 32), np.uint8)
    truth, predicted = [(0,), (1, 2), None, (2,)], [(0,), (1,), (2,), (0,)]
    names = ["a", "b" * 200, "c", "d"]
    fields = [
        SheetField(name=name, image=image, truth=true, predicted=called)
        for name, image, true, called in zip(names, images, truth, predicted, strict=True)
    ]
    for large in (False, True):
        draw_sheet(
            fields, tmp_path / "s.png", channels=channels, label_set=OWN, options=SheetOptions(large=large), left_out=3
        )
        with Image.open(tmp_path / "s.png") as image:
            assert np.asarray(image.convert("RGB")).std() > 20


def test_folds_of_own_locations_are_drawn(tmp_path: Path) -> None:
    fold_sheet(np.array([[5, 6], [0, 0], [2, 1]]), np.array([7, 7]), OWN, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000


def test_a_contact_sheet_spreads_over_the_dataset(study: Dataset, tmp_path: Path) -> None:
    shown = contact_sheet(study, tmp_path / "sheet.png")
    rows = [study.row(name) for name in shown]
    assert (len(set(rows)), rows[0]) == (12, 0)
    assert rows == sorted(rows)
    assert rows[-1] >= 40 * 11 / 12 - 1
    values = np.full((2, 28), 0.5, np.float32)
    decided = Predictions(study.ids[3:5], values, study.label_set, decided=values > 0.4)
    assert contact_sheet(study, tmp_path / "sheet.png", predictions=decided) == list(study.ids[3:5])
    with pytest.raises(UnknownIdError, match="The predictions have no field"):
        contact_sheet(study, tmp_path / "sheet.png", ids=[study.ids[0]], predictions=decided)


def texts_of(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], object]) -> list[str]:
    """Return all texts of the figure that a function draws."""
    seen: list[str] = []
    save = Figure.savefig

    def remember(figure: Figure, *given: Any, **more: Any) -> None:
        seen.extend(text.get_text() for text in figure.findobj(Text) if text.get_text())
        save(figure, *given, **more)

    monkeypatch.setattr(Figure, "savefig", remember)
    draw()
    monkeypatch.undo()
    return seen


def test_probabilities_are_shown_and_only_marks_that_occur(
    study: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((40, 28), 0.25, np.float32)
    truth = study.truth
    found = Predictions(study.ids, values, study.label_set, decided=truth)
    texts = texts_of(monkeypatch, lambda: contact_sheet(study, tmp_path / "a.svg", predictions=found))
    assert "✓ correct" in texts
    assert not {"○ missed", "✗ wrong"} & set(texts)
    assert any("(12 of 40 fields are shown)" in text for text in texts)
    assert any(text.startswith("✓ ") and text.endswith(" 0.25") for text in texts)
    assert any(text.endswith("µm") for text in texts)
    undecided = Predictions(study.ids, values, study.label_set)
    texts = texts_of(monkeypatch, lambda: contact_sheet(study, tmp_path / "b.pdf", predictions=undecided))
    assert "✓ correct" not in texts
    assert sum(text.endswith(" 0.25") for text in texts) == 12 * 3
    thresholds = dict.fromkeys(study.label_set.keys, 0.2)
    limited = Predictions(study.ids, values, study.label_set, {"thresholds": thresholds})
    texts = texts_of(
        monkeypatch,
        lambda: contact_sheet(study, tmp_path / "c.png", ids=study.ids[:1], predictions=limited),
    )
    assert {"✓ correct", "✗ wrong"} <= set(texts)


def test_large_sheets_name_the_channels_and_what_was_not_imaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (4, 32, 32), np.uint8)
    image[3] = 0
    fields = [SheetField(name="a", image=image, pixel_um=float("nan"))]
    for large in (True, False):
        options = SheetOptions(large=large, palette="colorblind")
        texts = texts_of(
            monkeypatch,
            lambda options=options: draw_sheet(  # type: ignore[misc]
                fields, tmp_path / "s.png", channels=CHANNELS, label_set=OWN, options=options
            ),
        )
        assert sum("not" in text and "imaged" in text for text in texts) == 1
        assert not any("µm" in text for text in texts)
        assert any("protein" in text for text in texts)
    assert any("protein yellow" in text for text in texts)
    with pytest.raises(SettingsError, match="unknown value 'pastel'"):
        SheetOptions(palette="pastel")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="`most` is 0"):
        SheetOptions(most=0)
