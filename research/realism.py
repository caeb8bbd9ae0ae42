"""Compare simulated fields with real ones by simple statistics, and by classifiers that separate them.

    python research/realism.py IMAGES [--simulated 300] [--size 256] [--original 256]
                               [--labels CSV --sheet PNG [--dictionary DIR]]

IMAGES contains fields with the file names of the 2018 competition. The output is the mean and standard deviation of
each statistic in both sets, and the distances of the perceptual hashes of different fields. It also has the
cross-validated area under the ROC curve of two classifiers that separate real from simulated fields. An area of 0.5
means that they cannot be separated. Simulated fields have the location frequencies of the real training set. --original
draws them larger and scales them down like the real ones.

--sheet draws the protein of each location: an image of a dictionary of patterns, named ``{location}-…``, two real
fields, and three simulated fields.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
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

from cytoloc.channels import CHANNELS
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.images.hashes import field_hashes
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import Design, plan_one
from cytoloc.simulate.study import simulate_dataset

BANDS = 5


def statistics(image: NDArray[np.uint8]) -> dict[str, float]:
    """Return the statistics of a field, uint8 of shape ``(4, size, size)``."""
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
    """Return the logarithm of the share of variance in each octave, finest first."""
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
    """Return the names of the statistics, and one row per field."""
    rows = [statistics(image) for image in images]
    return list(rows[0]), np.array([list(row.values()) for row in rows])


def hash_distances(images: Sequence[NDArray[np.uint8]], wells: Sequence[object]) -> NDArray[np.float64]:
    """Return the 1st, 5th and 50th percentile of the hash distances between fields of different wells, per channel."""
    hashes = np.array([list(field_hashes(image, CHANNELS).values()) for image in images], np.uint64)
    one, other = np.triu_indices(len(images), 1)
    apart = np.array([wells[a] != wells[b] for a, b in zip(one, other, strict=True)])
    bits = np.bitwise_count(hashes[one] ^ hashes[other])[apart]
    return np.asarray(np.percentile(bits, [1, 5, 50], axis=0).T)


def shown(image: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """Return the protein of a field in gray with stretched contrast, shape ``(edge, edge, 3)``."""
    white = max(float(np.percentile(image[1], 99.7)), 20.0)
    gray = np.clip(image[1] / white * 255, 0, 255).astype(np.uint8)
    return np.repeat(cv2.resize(gray, (edge, edge), interpolation=cv2.INTER_AREA)[..., None], 3, axis=2)


def draw_sheet(path: Path, of_location: Mapping[int, list[NDArray[np.uint8]]], dictionary: Path | None) -> None:
    """Draw one row per location: an image of a dictionary, two real fields, and three simulated fields."""
    edge, rows = 224, []
    for location in LabelSet.hpa28():
        found = sorted(dictionary.glob(f"{location.id}-*")) if dictionary else []
        cells = [cv2.resize(cv2.imread(str(each)), (edge, edge)) for each in found[:1]]
        cells += [np.zeros((edge, edge, 3), np.uint8)] * (1 - len(cells))
        real = [shown(image, edge) for image in of_location.get(location.id, [])[:2]]
        cells += real + [np.zeros((edge, edge, 3), np.uint8)] * (2 - len(real))
        for seed in range(3):
            drawn = draw_field(plan_one(location.id, seed=seed, size=512), size=256)
            cells.append(shown(drawn, edge))
        row = np.ascontiguousarray(np.concatenate(cells, axis=1))
        cv2.putText(row, f"{location.id} {location.name}", (5, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 255, 255), 1)
        rows.append(row)
    half = len(rows) // 2
    cv2.imwrite(str(path), np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], axis=1))


def main() -> None:
    """Print the statistics of both sets, and the performance of the classifiers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of {Id}_{red,green,blue,yellow}.png")
    parser.add_argument("--simulated", type=int, default=300, help="number of simulated fields (default: 300)")
    parser.add_argument("--size", type=int, default=256, help="edge length of images in pixels (default: 256)")
    parser.add_argument("--original", type=int, help="edge length at which fields are drawn (default: --size)")
    parser.add_argument("--labels", type=Path, help="CSV file of labels, for --sheet")
    parser.add_argument("--sheet", type=Path, help="PNG file for the images")
    parser.add_argument("--dictionary", type=Path, help="folder of images of a dictionary of patterns")
    given = parser.parse_args()
    found = find_kaggle_fields(given.images)
    real = [
        scale_field(read_kaggle_field(given.images, name, found[name]), Scaling(size=given.size)).image
        for name in sorted(found)
    ]
    with tempfile.TemporaryDirectory() as place:
        design = Design(n_fields=given.simulated, seed=7, size=given.size, original_px=given.original)
        dataset = simulate_dataset(Path(place) / "s.dataset", design)
        drawn = list(dataset)
        wells = list(dataset.fields.select("plate", "well").iter_rows())
    if given.sheet:
        labels = read_labels(given.labels)
        fewest = sorted(zip(sorted(found), real, strict=True), key=lambda each: len(labels[each[0]]))
        of_location = {i: [image for name, image in fewest if i in labels[name]] for i in range(len(LabelSet.hpa28()))}
        draw_sheet(given.sheet, of_location, given.dictionary)
        print(f"{given.sheet}: drawn.")
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
    print("distances of hashes of different fields in bits: 1st, 5th and 50th percentile")
    distances = hash_distances(real, range(len(real))), hash_distances(drawn, wells)
    for role, one, other in zip(CHANNELS, *distances, strict=True):
        print(f"{role:<36}{'/'.join(f'{each:.0f}' for each in one):>18}{'/'.join(f'{each:.0f}' for each in other):>18}")
    splits = StratifiedKFold(5, shuffle=True, random_state=0)
    models: dict[str, Any] = {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
        "random forest": RandomForestClassifier(500, random_state=0, n_jobs=2),
    }
    for name, model in models.items():
        scores = cross_val_predict(model, both, truth, cv=splits, method="predict_proba")[:, 1]
        print(f"{name}: AUC {roc_auc_score(truth, scores):.3f}")


if __name__ == "__main__":
    main()
