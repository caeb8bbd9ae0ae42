"""A site like the Human Protein Atlas's on this machine, with whatever can go wrong; and the XML of genes by script."""

from __future__ import annotations

import hashlib
import http.server
import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

COLORS = ("red", "green", "blue", "yellow")
PLANES = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}

Fault = Literal[
    "503", "429", "429 long", "404", "403", "cut", "stall", "says more", "says less", "html", "short", "empty", "png",
    "no length", "not gzip",
]  # fmt: skip


class Well(NamedTuple):
    """A cell line in a gene's XML."""

    cell_line: str
    locations: Sequence[str]
    fields: Sequence[str]
    """Such as ``10580/1610_C1_1``."""


class Assay(NamedTuple):
    """A subAssay of an antibody."""

    antibody: str
    reliability: str
    wells: Sequence[Well]
    kind: str = 'type="human"'


def gene_xml(
    ensembl: str,
    name: str,
    assays: Sequence[Assay],
    *,
    release: str = "18",
    images: str = "http://v18.proteinatlas.org/images",
    root: bool = True,
) -> str:
    """Return a gene in the Atlas's XML, with the parts around that are of no interest here."""
    antibodies = "".join(
        f'<antibody id="{assay.antibody}" releaseDate="2008-08-15" releaseVersion="4">'
        '<antigenSequence>MASPSR</antigenSequence><tissueExpression technology="IHC" assayType="tissue"><data>'
        "<tissue>liver</tissue><patient><location>none</location><sample><assayImage><image>"
        "<imageUrl>http://v18.proteinatlas.org/images/4109/11813_A_8_4.jpg</imageUrl></image></assayImage></sample>"
        '</patient></data></tissueExpression><cellExpression source="HPA" technology="ICC/IF">'
        f"<subAssay {assay.kind}><summary>Somewhere.</summary>"
        f'<verification type="reliability" description="How far">{assay.reliability}</verification>'
        "<image><imageUrl>http://v18.proteinatlas.org/images/4109/if_selected.jpg</imageUrl></image>"
        + "".join(_well_xml(well, images) for well in assay.wells)
        + "</subAssay></cellExpression></antibody>"
        for assay in assays
    )
    entry = (
        f'<entry version="{release}" url="http://v18.proteinatlas.org/{ensembl}"><name>{name}</name>'
        f'<synonym>X1</synonym><identifier id="{ensembl}" db="Ensembl" version="88.38"><xref id="O43657" db="Uniprot"/>'
        '</identifier><cellExpression source="HPA" technology="ICC/IF"><summary>Sum.</summary><data>'
        '<location status="main">cytosol</location></data></cellExpression>'
        f"{antibodies}</entry>"
    )
    start = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return start + (f'<proteinAtlas schemaVersion="2.5">{entry}</proteinAtlas>' if root else entry)


def _well_xml(well: Well, address: str) -> str:
    locations = "".join(f'<location GOId="GO:0005829">{escape(name)}</location>' for name in well.locations)
    images = "".join(
        "<image><channel color='blue'>nucleus</channel><channel color='red'>microtubules</channel>"
        f"<channel color='green'>antibody</channel><imageUrl>{address}/{stem}_blue_red_green.jpg</imageUrl></image>"
        for stem in well.fields
    )
    return (
        f'<data><cellLine organ="Mesenchymal" cellosaurusID="CVCL_0042">{well.cell_line}</cellLine>{locations}'
        f"<assayImage>{images}</assayImage></data>"
    )


def rendering(color: str, *, seed: int = 0, size: int = 48) -> bytes:
    """Return a JPEG that shows one stain in its color."""
    rng = np.random.default_rng([seed, COLORS.index(color)])
    shown = np.zeros((size, size, 3), np.uint8)
    shown[..., PLANES[color]] = rng.integers(20, 200, (size, size, 1), np.uint8)
    content = io.BytesIO()
    Image.fromarray(shown).save(content, "JPEG", quality=90)
    return content.getvalue()


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class AtlasSite:
    """The files of the site, its faults by path (one per request, in order), and the requests that it got."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    faults_of_heads: dict[str, list[Fault]] = field(default_factory=dict)
    base: str = ""
    retry_after: str = "0"
    slow_s: float = 0.0

    def add_gene(self, ensembl: str, name: str, *assays: Assay, **more: str) -> None:
        """Put a gene's XML and its images on the site."""
        self.files[f"/{ensembl}.xml"] = gene_xml(ensembl, name, assays, **more).encode()  # type: ignore[arg-type]
        for assay in assays:
            for well in assay.wells:
                for stem in well.fields:
                    for color in COLORS:
                        seed = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4], "big")
                        self.files[f"/images/{stem}_{color}.jpg"] = rendering(color, seed=seed)

    def requests(self, path: str, method: str = "GET") -> list[Asked]:
        """Return what was asked of a path."""
        return [each for each in self.asked if each.path == path and each.method == method]

    @property
    def images(self) -> list[str]:
        """Paths of all images."""
        return sorted(path for path in self.files if path.endswith(".jpg"))

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve, and lend the address."""
        site = self

        class Handler(_Handler):
            pass

        Handler.site = site
        with _Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            self.base = f"http://127.0.0.1:{server.server_port}"
            try:
                yield self.base
            finally:
                server.shutdown()
                thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that were killed."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: AtlasSite

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        site = self.site
        site.asked.append(Asked(self.command, self.path, dict(self.headers.items())))
        if self.path in site.redirects:
            self._send(302, b"", {"Location": site.redirects[self.path]})
            return
        faults = (site.faults if body else site.faults_of_heads).get(self.path, [])
        fault = faults.pop(0) if faults else None
        content = site.files.get(self.path)
        if fault in ("503", "429", "429 long", "404", "403") or content is None:
            self._refuse(fault or "404")
            return
        if fault == "html":
            self._send(200, b"<!DOCTYPE html>\n<html><body>We are mending the site.</body></html>", {})
            return
        if fault in ("short", "empty", "png"):
            content = {"short": content[: len(content) // 2], "empty": b"", "png": b"\x89PNG\r\n\x1a\n" + bytes(90)}[
                fault
            ]
        self._send_file(content, fault, body=body)

    def _refuse(self, fault: str) -> None:
        more = {}
        if fault.startswith("429"):
            more["Retry-After"] = "7200" if "long" in fault else self.site.retry_after
        self._send(int(fault.partition(" ")[0]), b"no", more)

    def _send_file(self, content: bytes, fault: Fault | None, *, body: bool) -> None:
        site = self.site
        more = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:12]}"'}
        length = (
            -1 if fault == "no length" else len(content) + {"says more": 500, "says less": -200}.get(fault or "", 0)
        )
        if fault in ("cut", "stall"):
            content = content[: len(content) // 2]
        if fault == "not gzip":
            more["Content-Encoding"] = "gzip"
        time.sleep(site.slow_s)
        self._send(200, content if body else b"", more, length=length)
        if fault == "stall":
            time.sleep(1.0)
        if fault in ("cut", "stall", "says more", "says less"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, content: bytes, more: dict[str, str], *, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        if length == -1:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass
