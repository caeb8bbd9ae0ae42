"""The order in which to label fields."""

from __future__ import annotations

import numpy as np

from cytoloc.embed.novelty import comparable, farthest_first


def test_fields_that_are_unlike_all_others_come_first() -> None:
    # Two groups of fields, of which one is labeled, and a field alone.
    places = np.array([[0.0], [0.1], [0.2], [10.0], [10.1], [10.2], [4.0]], np.float32)
    labeled = np.array([True, True, False, False, False, False, False])
    # The farthest of the other group, the field alone, and only then those that are like chosen or labeled ones.
    assert farthest_first(places, labeled).tolist()[:2] == [5, 6]
    assert sorted(farthest_first(places, labeled).tolist()) == [2, 3, 4, 5, 6]
    assert farthest_first(places, labeled, most=2).tolist() == [5, 6, 3, 2, 4]
    assert farthest_first(places, np.ones(7, bool)).tolist() == []
    # Without any labels, the field that is farthest from the mean comes first.
    assert farthest_first(places, np.zeros(7, bool)).tolist()[0] == 5


def test_all_features_count_alike() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(40, 300)) * np.linspace(1, 1000, 300)).astype(np.float32)
    found = comparable(features)
    assert found.shape == (40, 40)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    ours, expected = (((x[:, None] - x[None]) ** 2).sum(axis=2) for x in (found, scaled))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=0.1)
    assert comparable(features, components=5).shape == (40, 5)
