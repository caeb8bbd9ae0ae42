"""Measure time and memory of a fetch: the plan of many fields, and the download of images from a local server.

    python research/fetch.py [--fields 50000] [--images 2000] [--rate 1000]

The catalog is generated in the schema of the Human Protein Atlas, with two fields per well, three wells per antibody,
and tissue data that are ten times as long. The images are smooth JPEG files of 512 px. Each step runs in its own
process.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cytoloc.labels.label_set import LabelSet

FIELDS_A_GENE = 6

_TISSUE = (
    "<data><tissue>liver</tissue><tissueCell><cellType>hepatocytes</cellType>"
    '<level type="expression">not detected</level></tissueCell></data>'
)


names_of = LabelSet.hpa28().names


def gene(number: int, rng: np.random.Generator) -> str:
    """Return the XML entry of a gene."""
    wells = ""
    for well in range(FIELDS_A_GENE // 2):
        names = rng.choice(len(names_of), size=int(rng.integers(1, 4)), replace=False)
        locations = "".join(f"<location>{names_of[name].replace('&', '&amp;')}</location>" for name in names)
        images = "".join(
            f"<image><channel>antibody</channel><imageUrl>http://v18.proteinatlas.org/images/{number}/{well}_A{well}_{field}"
            "_blue_red_green.jpg</imageUrl></image>"
            for field in (1, 2)
        )
        wells += f"<data><cellLine>U-2 OS</cellLine>{locations}<assayImage>{images}</assayImage></data>"
    return (
        f'<entry version="18"><name>G{number}</name><identifier id="ENSG{number:011d}" db="Ensembl"/>'
        f'<antibody id="HPA{number:06d}"><tissueExpression>{_TISSUE * 100}</tissueExpression><cellExpression>'
        f'<subAssay type="human"><verification type="reliability">approved</verification>{wells}</subAssay>'
        "</cellExpression></antibody></entry>"
    )


def write_catalog(path: Path, genes: int) -> None:
    """Write the XML of many genes."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write('<proteinAtlas schemaVersion="3.0">')
        file.writelines(gene(number, rng) for number in range(genes))
        file.write("</proteinAtlas>")


class _Images(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content = b""

    def do_GET(self) -> None:
        """Send the image for any URL."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Do not log requests."""


@contextlib.contextmanager
def images() -> Iterator[str]:
    """Serve one image at every URL, and yield the URL of the server."""
    coarse = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    plane = cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC)
    _Images.content = cv2.imencode(".jpg", cv2.merge([plane, plane, plane]))[1].tobytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Images) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def run(words: list[str]) -> tuple[dict[str, Any], float, float]:
    """Return the JSON output of a command, its time in seconds and its peak memory in MB."""
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "cytoloc", "fetch", "hpa", "--json", *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - started
    return json.loads(done.stdout), seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Print time and memory of a plan and of a fetch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=50_000, help="number of fields in the plan (default: 50000)")
    parser.add_argument("--images", type=int, default=2000, help="number of images to fetch (default: 2000)")
    parser.add_argument("--rate", type=int, default=1000, help="maximum number of requests per second (default: 1000)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, images() as base:
        out = Path(place) / "out"
        for number in (given.fields // 10, given.fields):
            catalog = Path(place) / f"{number}.xml"
            write_catalog(catalog, -(-number // FIELDS_A_GENE))
            words = ["--catalog", str(catalog), "--base", base, "--out", str(out)]
            # A new process for each plan, because peak memory includes earlier work of the process.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                facts, seconds, peak = pool.apply(run, ([*words, "--plan"],))
            size = catalog.stat().st_size / 1e6
            print(
                f"plan   {facts['fields']:>6} fields of {size:.0f} MB XML: {seconds:.1f} s, {peak:.0f} MB", flush=True
            )
        words += ["--rate", str(given.rate), "--limit", str(given.images // 4)]
        for what in ("fetch", "again"):
            facts, seconds, _ = run(words)
            print(
                f"{what}  {facts['images']:>6} images, {facts['already_there']} already there: {seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
