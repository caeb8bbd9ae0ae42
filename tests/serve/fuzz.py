"""Send many damaged uploads to a service: ``python -m tests.serve.fuzz --requests 10000``.

It prints the answers by status, and the memory of the service before and after.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
from collections import Counter

import cv2
import httpx
import numpy as np
import tifffile

import cytoloc
from cytoloc._typing import UInt8Array
from cytoloc.serve.settings import ServeSettings
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import plan_one


def send_damaged(client: httpx.Client, field: UInt8Array, rng: random.Random) -> int:
    """Send a file that is changed at random, and return the status of the answer."""
    suffix = rng.choice([".png", ".jpg", ".tif", ".npy"])
    content = bytearray(_content(field, suffix))
    for _ in range(rng.randrange(4)):
        kind = rng.randrange(4)
        if kind == 0:
            content[rng.randrange(len(content))] = rng.randrange(256)
        elif kind == 1:
            del content[rng.randrange(1, len(content)) :]
        elif kind == 2:
            start = rng.randrange(min(len(content), 200))
            content[start : start + 4] = rng.randbytes(4)
        else:
            content += rng.randbytes(50)
    name = rng.choice(["a", "../a", "a\x00b", "C:\\a", "ä" * 300, ""]) + suffix
    data = (
        {"channels": "protein", "absent": "microtubules=zero,nucleus=zero,er=zero"}
        if suffix in (".png", ".jpg")
        else {}
    )
    response = client.post("/v1/predict", files={"image": (name, bytes(content))}, data=data)
    for secret in ("Traceback", "cytoloc-upload", "site-packages"):
        assert secret not in response.text, response.text
    return response.status_code


def _content(field: UInt8Array, suffix: str) -> bytes:
    """Return a field as a file."""
    stream = io.BytesIO()
    if suffix == ".npy":
        np.save(stream, field)
    elif suffix == ".tif":
        tifffile.imwrite(stream, field, photometric="minisblack", metadata={"axes": "CYX"})
    else:
        return bytes(cv2.imencode(suffix, field[1])[1])
    return stream.getvalue()


def resident_mb() -> float:
    """Return the largest memory that this process had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Start a service, send the requests, and print the result."""
    from tests.serve.conftest import running

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    rng = random.Random(words.seed)
    field = draw_field(plan_one(2, seed=2018, size=512), size=128)
    model = cytoloc.load("builtin", device="cpu")
    with running(model, ServeSettings(requests_per_minute=1_000_000, kept_mb=64)) as server:
        codes: Counter[int] = Counter()
        for number in range(1, words.requests + 1):
            codes[send_damaged(server.client, field, rng)] += 1
            if number in (words.requests // 10, words.requests):
                print(f"{number} requests: answers {dict(codes)}, largest memory {resident_mb():.0f} MB", flush=True)


if __name__ == "__main__":
    main()
