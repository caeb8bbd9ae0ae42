"""Exact search of the nearest fields among a million, and the same with the exact index of faiss.

    python -m benchmarks.neighbors [--reference 1000000] [--width 1024] [--queries 100] [--out neighbors.json]

Features are random. Faiss gets features of length 1; the time to scale and add them counts, as for `find_neighbors`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from cytoloc.embed.embeddings import Embeddings
from cytoloc.embed.neighbors import find_neighbors
from cytoloc.parallel import usable_cores

K = 5


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features of length 1."""
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)


def measured(reference: int, width: int, queries: int) -> dict[str, Any]:
    """Return the seconds of both ways, and whether they find the same fields."""
    rng = np.random.default_rng(0)
    known = rng.standard_normal((reference, width), np.float32)
    wanted = known[:queries] + 0.5 * rng.standard_normal((queries, width), np.float32)
    names = tuple(f"r{row}" for row in range(reference))
    one = Embeddings(names, known, "m")
    other = Embeddings(tuple(f"q{row}" for row in range(queries)), wanted, "m")
    started, used = time.perf_counter(), time.process_time()
    found = find_neighbors(other, one, k=K)
    ours_s, ours_cpu_s = time.perf_counter() - started, time.process_time() - used
    started, used = time.perf_counter(), time.process_time()
    index: Any = faiss.IndexFlatIP(width)
    for start in range(0, reference, 50_000):
        index.add(unit(known[start : start + 50_000]))
    _, rows = index.search(unit(wanted), K)
    faiss_s, faiss_cpu_s = time.perf_counter() - started, time.process_time() - used
    return {
        "reference": reference,
        "width": width,
        "queries": queries,
        "cores": usable_cores(),
        "find_neighbors_s": round(ours_s, 2),
        "find_neighbors_cpu_s": round(ours_cpu_s, 2),
        "faiss_s": round(faiss_s, 2),
        "faiss_cpu_s": round(faiss_cpu_s, 2),
        "same_neighbors": float((rows == found.rows).mean()),
        "most_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 1),
    }


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = measured(given.reference, given.width, given.queries)
    print(json.dumps(results, indent=2))
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
