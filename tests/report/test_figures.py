from __future__ import annotations

import numpy as np

from cytoloc.report.figures import composite, panel, stretch


def test_a_panel_shows_composite_protein_and_the_other_channels() -> None:
    image = np.zeros((4, 90, 90), np.uint8)
    for channel, value in enumerate((40, 80, 120, 160)):
        image[channel, :, : 20 * (channel + 1)] = value
    shown = panel(image)
    # A gap of 1 px between them.
    assert shown.shape == (90, 90 + 1 + 90 + 1 + 29, 3)
    np.testing.assert_array_equal(shown[:, :90], composite(image))
    np.testing.assert_array_equal(shown[:, 91:181, 0], stretch(image[1]))
    assert (shown[:, [90, 181]] == 255).all()
    # A third of the edge: microtubules, nucleus and endoplasmic reticulum are 20, 60 and 80 of 90 px wide.
    widths = [int((shown[row, 182:, 0] > 100).sum()) for row in (15, 45, 75)]
    assert np.abs(np.array(widths) - [20 / 3, 60 / 3, 80 / 3]).max() <= 1


def test_the_reticulum_adds_half_its_strength_in_yellow() -> None:
    image = np.zeros((4, 8, 8), np.uint8)
    image[3] = 200
    assert composite(image)[0, 0].tolist() == [127, 127, 0]
