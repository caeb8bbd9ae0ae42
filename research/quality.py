"""Determine the limits of `cytoloc.images.quality` on real fields with simulated defects, and evaluate them.

    python research/quality.py IMAGES [--out quality.json]

IMAGES contains fields of 512 px and 8 bits with the file names of the 2018 competition. Limits are fitted on one half
of the fields and evaluated on the other, in both directions. The limits that are printed last are fitted on all fields;
the module uses them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cytoloc.channels import CHANNELS
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.images.quality import Limits, measure, nucleus_measures

FALSE_ALARMS = 0.01
"""Largest share of real channels that a limit may flag on the fields it is fitted to."""

Fields = NDArray[np.uint8]


def read_fields(folder: Path) -> Fields:
    """Return all fields, uint8 of shape ``(n, 4, height, width)``."""
    found = find_kaggle_fields(folder)
    return np.stack([read_kaggle_field(folder, name, found[name]) for name in sorted(found)])


def noisy(image: NDArray[np.floating], rng: np.random.Generator, sigma: float = 1.0) -> Fields:
    """Return an image as recorded by a camera: with read noise, integer gray levels, and values up to 255."""
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def defects(fields: Fields, rng: np.random.Generator) -> dict[str, Fields]:
    """Return all channels of all fields with each defect."""
    flat = fields.reshape(-1, *fields.shape[2:])
    made: dict[str, list[Fields]] = {}
    for plane in flat:
        float_plane = plane.astype(np.float64)
        offset, sigma = rng.uniform(2, 12), rng.uniform(0.5, 3)
        made.setdefault("empty", []).append(noisy(np.full(plane.shape, offset), rng, sigma))
        made.setdefault("low contrast", []).append(noisy(float_plane * 20 / 255 * rng.uniform(0.3, 1), rng, 0.5))
        bright = np.sort(float_plane.ravel())[int(plane.size * (1 - rng.uniform(0.05, 0.3)))]
        made.setdefault("saturated", []).append(noisy(float_plane * 255 / max(bright, 1), rng))
        for blur in (2, 3, 5):
            soft = cv2.GaussianBlur(float_plane, (0, 0), blur)
            made.setdefault(f"blurred, sigma {blur} px", []).append(noisy(soft, rng))
    return {name: np.stack(planes).reshape(fields.shape) for name, planes in made.items()}


def measures(fields: Fields) -> NDArray[np.float64]:
    """Return contrast, share of white pixels, and sharpness of all channels, shape ``(n, 4, 3)``."""
    return np.array([[measure(plane) for plane in field] for field in fields])


def fit_limits(real: NDArray[np.float64], empty: NDArray[np.float64]) -> Limits:
    """Return the limits that flag at most the allowed share of the real channels."""
    spread = np.quantile(real[..., 0], FALSE_ALARMS, method="lower")
    white = np.quantile(real[..., 1], 1 - FALSE_ALARMS, method="higher")
    sharpness = np.quantile(real[..., 2], FALSE_ALARMS, method="lower")
    noise = np.quantile(empty[..., 2], 0.05)
    return Limits(float(spread), float(white), float(sharpness), float(noise), 3.0)


def flag(kind: str, found: NDArray[np.float64], limits: Limits) -> NDArray[np.bool_]:
    """Return the channels that a limit flags, like ``flags_of`` for arrays."""
    spread, white, sharpness = np.moveaxis(found, -1, 0)
    faint = spread < limits.spread
    structure = (spread > 2) & (sharpness < limits.noise)
    return {
        "empty": faint & ~structure,
        "low contrast": faint & structure,
        "saturated": white > limits.white,
        "blurred": ~faint & (sharpness < limits.sharpness),
    }[kind]


def fit_nucleus(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return intercept and weights that distinguish nuclei from microtubules and endoplasmic reticulum."""
    positive, negative = features[:, 2], np.concatenate([features[:, 0], features[:, 3]])
    both = np.concatenate([positive, negative])
    is_nucleus = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    spread = both.std(axis=0)
    model = LogisticRegression().fit(both / spread, is_nucleus)
    return np.r_[model.intercept_, model.coef_[0] / spread]


def swap_rates(features: NDArray[np.float64], weights: NDArray[np.float64], limit: float) -> dict[str, float]:
    """Return the share of flagged fields, unchanged and with the nucleus swapped with each other channel."""
    scores = weights[0] + features @ weights[1:]
    rates = {"none": float((scores.max(axis=1) - scores[:, 2] > limit).mean())}
    for channel in (0, 1, 3):
        swapped = scores.copy()
        swapped[:, [2, channel]] = swapped[:, [channel, 2]]
        rates[CHANNELS[channel]] = float((swapped.max(axis=1) - swapped[:, 2] > limit).mean())
    return rates


def main() -> None:
    """Print rates and limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of {Id}_{red,green,blue,yellow}.png")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    fields = read_fields(given.images)
    made = {name: measures(planes) for name, planes in defects(fields, np.random.default_rng(0)).items()}
    real = measures(fields)
    nuclei = np.array([[nucleus_measures(plane) for plane in field] for field in fields])
    even = np.arange(len(fields)) % 2 == 0
    rates: dict[str, dict[str, float]] = {}
    halves = [(fit_limits(real[a], made["empty"][a]), fit_nucleus(nuclei[a]), ~a) for a in (even, ~even)]
    for name, found in made.items():
        kind = name.split(",")[0]
        hits = np.concatenate([flag(kind, found[evaluated], limits).ravel() for limits, _, evaluated in halves])
        alarms = np.concatenate([flag(kind, real[evaluated], limits).ravel() for limits, _, evaluated in halves])
        rates[name] = {"hits": float(hits.mean()), "false alarms": float(alarms.mean())}
    either = made["empty"], made["low contrast"]
    rates["empty or low contrast"] = {
        "hits": float(np.mean([[(f[j][..., 0] < limits.spread).mean() for f in either] for limits, _, j in halves])),
        "false alarms": rates["empty"]["false alarms"] + rates["low contrast"]["false alarms"],
    }
    swaps = [swap_rates(nuclei[evaluated], weights, 3.0) for _, weights, evaluated in halves]
    for role in ("microtubules", "protein", "er"):
        rates[f"nucleus swapped with {role}"] = {
            "hits": float(np.mean([each[role] for each in swaps])),
            "false alarms": float(np.mean([each["none"] for each in swaps])),
        }
    for name, rate in rates.items():
        print(f"{name:<34} hits {rate['hits']:.2f}   false alarms {rate['false alarms']:.3f}")
    limits, weights = fit_limits(real, made["empty"]), fit_nucleus(nuclei)
    print(limits)
    print("NUCLEUS_WEIGHTS", tuple(round(float(weight), 2) for weight in weights))
    if given.out:
        result = {"fields": len(fields), "rates": rates, "limits": limits._asdict(), "nucleus": weights.tolist()}
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
