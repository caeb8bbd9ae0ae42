"""Measure how often a bundle marks good fields and nonsense of kinds that it did not learn from.

    python research/nonsense.py BUNDLE GOOD.dataset [GOOD.dataset …]

The kinds that a bundle learns from are in ``cytoloc.predict.inputs.nonsense``. Some kinds here are others:
photographs, patterns, clouds, and brightfield-like images. The fields should not be those
that the bundle was made from.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from sklearn.datasets import load_sample_images

from cytoloc import load, open_dataset
from cytoloc._typing import UInt8Array
from cytoloc.predict.inputs.statistics import field_statistics
from cytoloc.predict.model import Model

Random = np.random.Generator


def only(*kept: int) -> Callable[[UInt8Array, Random], UInt8Array]:
    """Return a function that blackens all channels but some."""

    def change(field: UInt8Array, _rng: Random) -> UInt8Array:
        changed = np.zeros_like(field)
        changed[list(kept)] = field[list(kept)]
        return changed

    return change


def exchanged(*order: int) -> Callable[[UInt8Array, Random], UInt8Array]:
    """Return a function that exchanges channels."""
    return lambda field, _rng: field[list(order)]


def photograph(field: UInt8Array, rng: Random) -> UInt8Array:
    """Return a part of a photograph in color, with its gray value as the fourth channel."""
    image = load_sample_images().images[rng.integers(2)]
    side = int(rng.integers(field.shape[1], min(image.shape[:2])))
    top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
    part = cv2.resize(image[top : top + side, left : left + side], field.shape[1:], interpolation=cv2.INTER_AREA)
    return np.stack([*part.transpose(2, 0, 1), part.mean(axis=2).astype(np.uint8)])


def pattern(field: UInt8Array, rng: Random) -> UInt8Array:
    """Return a checkerboard, stripes, a slope or a disk."""
    size = field.shape[1]
    rows, columns = np.mgrid[:size, :size]
    step = int(rng.integers(2, 32))
    choices = [
        (rows // step + columns // step) % 2 * 255,
        127 + 127 * np.sin(columns * 2 * np.pi / step),
        (rows + columns) * 255 / (2 * size),
        (np.hypot(rows - size / 2, columns - size / 2) < 2 * step) * 255,
    ]
    return np.repeat(np.asarray(choices[rng.integers(4)], np.uint8)[None], len(field), axis=0)


def clouds(field: UInt8Array, rng: Random) -> UInt8Array:
    """Return noise whose power falls with frequency, in each channel."""
    size = field.shape[1]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = 1
    planes = []
    for _ in field:
        spectrum = np.fft.fft2(rng.standard_normal((size, size))) * frequency ** -rng.uniform(0.5, 1.5)
        values = np.fft.ifft2(spectrum).real
        planes.append(255 * (values - values.min()) / np.ptp(values))
    return np.asarray(planes, np.uint8)


def brightfield(field: UInt8Array, rng: Random) -> UInt8Array:
    """Return a gray image with the fine structure of a channel, in all channels."""
    values = field[0].astype(np.float32) - field[2]
    fine = cv2.GaussianBlur(values, (0, 0), 1) - cv2.GaussianBlur(values, (0, 0), 3)
    plane = np.clip(128 + 2 * fine + rng.normal(0, 3, fine.shape), 0, 255).astype(np.uint8)
    return np.repeat(plane[None], len(field), axis=0)


def noise(field: UInt8Array, rng: Random) -> UInt8Array:
    """Return uniform noise."""
    return rng.integers(0, 256, field.shape, dtype=np.uint8)


def smaller(field: UInt8Array, _rng: Random) -> UInt8Array:
    """Return a field whose cells are three times as small."""
    size = field.shape[1]
    mirrored = np.concatenate([field, field[:, :, ::-1], field], axis=2)
    tiled = np.concatenate([mirrored, mirrored[:, ::-1], mirrored], axis=1)
    return np.stack([cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA) for plane in tiled])


KINDS: dict[str, Callable[[UInt8Array, Random], UInt8Array]] = {
    "protein only": only(1),
    "protein and nucleus": only(1, 2),
    "uniform noise": noise,
    "nucleus and protein exchanged": exchanged(0, 2, 1, 3),
    "nucleus and microtubules exchanged": exchanged(2, 1, 0, 3),
    "all channels moved by one": exchanged(1, 2, 3, 0),
    "microtubules and ER exchanged": exchanged(3, 1, 2, 0),
    "cells three times as small": smaller,
    "photographs": photograph,
    "patterns": pattern,
    "clouds": clouds,
    "like brightfield": brightfield,
}


def marked(model: Model, fields: UInt8Array) -> list[str]:
    """Return what the model finds unusual in each field."""
    if model.info.inputs is None:
        raise SystemExit("The bundle does not know its training images.")
    features = np.concatenate([model.features(fields[start : start + 32]) for start in range(0, len(fields), 32)])
    return model.info.inputs.findings(field_statistics(fields), features)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="bundle, or builtin")
    parser.add_argument("datasets", nargs="+", type=Path, help="datasets of good fields")
    parser.add_argument("--rows", default="", help="rows of every dataset as START:STOP; default: all")
    given = parser.parse_args()
    model = load(given.bundle, device="cpu")
    start, _, stop = given.rows.partition(":")
    for path in given.datasets:
        dataset = open_dataset(path)
        own = [dataset.channels.index(name) for name in model.channels]
        fields = dataset[slice(int(start or 0), int(stop) if stop else None)].copy()
        fields = fields if fields.ndim == 4 else fields[None]
        found = marked(model, fields[:, own])
        print(f"\n{path}, {len(fields)} fields: {np.mean([bool(text) for text in found]):.1%} marked")
        for kind, change in KINDS.items():
            rng = np.random.default_rng(0)
            # Changes are made to all four channels, of which the model sees its own.
            changed = np.stack([change(field, rng) for field in fields])[:, own]
            if np.array_equal(changed, fields[:, own]):
                continue
            found = marked(model, changed)
            common = Counter(text for text in found if text).most_common(1)
            share = np.mean([bool(text) for text in found])
            print(f"  {kind:<36} {share:>7.1%} marked; most often: {common[0][0] if common else 'nothing'}")


if __name__ == "__main__":
    main()
