from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytoloc.channels import CHANNELS
from cytoloc.errors import SettingsError
from cytoloc.labels import LabelSet
from cytoloc.report.figures import composite, panel, score_plot, shortened, stretch
from cytoloc.report.tables import score_summary


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
        summary, table = score_summary(
            predicted, truth, None, label_set=LabelSet.hpa28(), min_positives=5, groups=np.arange(60) // 2
        )
        score_plot(table, summary, tmp_path / "score.png")
        with Image.open(tmp_path / "score.png") as picture:
            sizes.append(picture.size)
            assert np.asarray(picture.convert("RGB")).std() > 20
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] > 1.8 * sizes[1][1]
    with pytest.raises(SettingsError, match="not the name of a PNG"):
        score_plot(table, summary, tmp_path / "score.pdf")


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
