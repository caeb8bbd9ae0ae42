"""How far simulated fields are from real ones, by simple statistics, and how well those tell the two apart.

    python studies/realism.py IMAGES [--simulated 300] [--size 256]

IMAGES holds fields as the 2018 competition names them. Printed are mean and spread of each statistic in both, and the
area under the ROC curve of two classifiers that are told to separate them, cross-validated: .5 is what cannot be told
apart. Simulated fields are drawn in the proportions of the real training set.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cytoloc.atlas.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.labels import CHANNELS
from cytoloc.pictures.scale import Scaling, scale_field
from cytoloc.simulate.study import simulate_atlas

BANDS = 5


def statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """Return the statistics of a field, uint8 ``(4, size, size)``."""
    found: dict[str, float] = {}
    for role, plane in zip(CHANNELS, image, strict=True):
        values = plane.astype(np.float32)
        found[f"{role} mean"] = float(values.mean())
        found[f"{role} spread"] = float(values.std())
        for share in (10, 50, 90, 99.5):
            found[f"{role} {share} %"] = float(np.percentile(values, share))
        _, mask = cv2.threshold(plane, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        found[f"{role} foreground"] = float(mask.mean())
        for band, power in enumerate(spectrum(values)):
            found[f"{role} octave {band}"] = power
    flat = image.reshape(len(image), -1).astype(np.float32)
    together = np.corrcoef(flat)
    for one in range(len(CHANNELS)):
        for other in range(one):
            found[f"{CHANNELS[other]}-{CHANNELS[one]} correlation"] = float(together[one, other])
    return found


def spectrum(plane: NDArray[np.float32]) -> list[float]:
    """Return the share of variance in each octave, the finest first, as logarithms."""
    shares = []
    power = float((plane**2).mean())
    for _ in range(BANDS):
        coarse = cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        left = float((coarse**2).mean())
        shares.append(max(power - left, 0.0))
        plane, power = coarse, left
    total = sum(shares) or 1.0
    return [float(np.log10(share / total + 1e-4)) for share in shares]


def table(images: list[NDArray[np.uint8]]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the names of the statistics, and a row per field."""
    rows = [statistics(image) for image in images]
    return list(rows[0]), np.array([list(row.values()) for row in rows])


def main() -> None:
    """Print both, and how well they are told apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--simulated", type=int, default=300)
    parser.add_argument("--size", type=int, default=256)
    given = parser.parse_args()
    found = find_kaggle_fields(given.images)
    real = [
        scale_field(read_kaggle_field(given.images, name, found[name]), Scaling(size=given.size)).image
        for name in sorted(found)
    ]
    with tempfile.TemporaryDirectory() as place:
        atlas = simulate_atlas(Path(place) / "s.atlas", n_fields=given.simulated, seed=7, size=given.size)
        drawn = list(atlas)
    names, of_real = table(real)
    _, of_drawn = table(drawn)
    print(f"{'':<36}{'real':>18}{'simulated':>18}   AUC alone")
    both = np.concatenate([of_real, of_drawn])
    truth = np.repeat([1, 0], [len(of_real), len(of_drawn)])
    for place_, name in enumerate(names):
        a, b = of_real[:, place_], of_drawn[:, place_]
        alone = roc_auc_score(truth, both[:, place_])
        of_both = f"{a.mean():>9.2f} ±{a.std():>6.2f}{b.mean():>10.2f} ±{b.std():>6.2f}"
        print(f"{name:<36}{of_both}   {max(alone, 1 - alone):.2f}")
    deal = StratifiedKFold(5, shuffle=True, random_state=0)
    models: dict[str, Any] = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
        "random forest": RandomForestClassifier(500, random_state=0, n_jobs=2),
    }
    for name, model in models.items():
        scores = cross_val_predict(model, both, truth, cv=deal, method="predict_proba")[:, 1]
        print(f"{name}: AUC {roc_auc_score(truth, scores):.3f}")


if __name__ == "__main__":
    main()
