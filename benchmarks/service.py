"""Service benchmark: fields per second of ``cytoloc serve`` with 16 clients, against the engine alone.

Both predict the same fields with the same network and engine, in batches of up to 16. The engine gets pixels in memory.
The service gets one request per field over HTTP, and also reads the files and answers JSON.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Annotated, Final

import httpx
import numpy as np
import typer

from benchmarks.inference import random_network
from benchmarks.rounds import Way, in_turns, machine
from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS
from cytoloc.errors import WorkerError
from cytoloc.labels.label_set import LabelSet
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.serve.running import listening, serve_model
from cytoloc.serve.settings import ServeSettings
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import plan_one

HOST: Final = "127.0.0.1"

CLIENTS: Final = 16
BATCH: Final = 16
SEVERAL: Final = 4
"""Number of different fields; requests repeat them."""

ENGINE: Final = "engine alone, pixels in memory"
SERVICE: Final = f"cytoloc serve, {CLIENTS} clients"


def simulated(size: int) -> UInt8Array:
    """Return some simulated fields, uint8 of shape ``(n, 4, size, size)``."""
    return np.stack([draw_field(plan_one(place, seed=0, size=size), size=size) for place in range(SEVERAL)])


def random_model(backbone: str, size: int) -> Model:
    """Return a model of one network with random weights."""
    info = ModelInfo(size=size, channels=CHANNELS, label_set=LabelSet.hpa28())
    return Model([random_network(backbone, simulated(size))], info, device="cpu", engine="openvino")


def _serve(backbone: str, size: int, port: int) -> None:
    """Serve a model with random weights, until the process is ended."""
    settings = ServeSettings(port=port, requests_per_minute=1_000_000, batch_size=BATCH, kept_mb=64)
    serve_model(random_model(backbone, size), settings=settings)


@contextmanager
def _service(backbone: str, size: int) -> Iterator[int]:
    """Run the service in another process, and yield its port."""
    with listening(HOST, 0) as free:
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(backbone, size, port))
    process.start()
    try:
        while True:
            if not process.is_alive():
                raise WorkerError("The service ended unexpectedly.")
            try:
                httpx.get(f"http://{HOST}:{port}/healthz", timeout=1)
            except httpx.TransportError:
                time.sleep(0.2)
            else:
                break
        yield port
    finally:
        process.terminate()
        process.join()


def _request(field: UInt8Array) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request for predictions of a field."""
    stream = io.BytesIO()
    np.save(stream, field)
    request = httpx.Request("POST", "http://x", files={"image": ("a.npy", stream.getvalue())}, data={"tta": "1"})
    return request.read(), {"Content-Type": request.headers["Content-Type"]}


def bench_service(backbone: str, size: int, *, fields: int, rounds: int) -> list[Way]:
    """Measure the speed of the service and of its engine.

    Args:
        backbone: Name of a network in timm.
        size: Edge length of fields in pixels.
        fields: Number of fields per round.
        rounds: Number of rounds.

    Returns:
        The speed of both.
    """
    pixels = simulated(size)
    requests = [_request(field) for field in pixels]
    model = random_model(backbone, size)
    many = np.concatenate([pixels] * (BATCH // SEVERAL))

    def engine() -> float:
        for _ in range(fields // BATCH):
            model.probabilities(many, tta=1)
        return fields // BATCH * BATCH

    with _service(backbone, size) as port, ThreadPoolExecutor(CLIENTS) as clients:

        def client(numbers: Iterator[int]) -> int:
            sent = 0
            with closing(HTTPConnection(HOST, port, timeout=600)) as connection:
                for number in numbers:
                    body, headers = requests[number % SEVERAL]
                    connection.request("POST", "/v1/predict", body, headers)
                    answer = connection.getresponse()
                    content = answer.read()
                    if answer.status != 200:
                        raise WorkerError(f"The service answered {answer.status}: {content[:500]!r}")
                    sent += 1
            return sent

        def service() -> float:
            # All clients take the next number from one iterator, so that they end at about the same time.
            return float(sum(clients.map(client, [iter(range(fields))] * CLIENTS)))

        return in_turns({ENGINE: engine, SERVICE: service}, against=ENGINE, rounds=rounds)


def bench(
    backbone: Annotated[str, typer.Option(help="Name of a network in timm.")] = "resnet34",
    size: Annotated[int, typer.Option(help="Edge length of fields in pixels.", min=64)] = 256,
    fields: Annotated[int, typer.Option(help="Number of fields per round.", min=16)] = 256,
    rounds: Annotated[int, typer.Option(help="Number of rounds.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,  # noqa: FBT002  a switch
) -> None:
    """Compare the speed of cytoloc serve with the speed of its engine.

    Example: `python -m benchmarks.service --backbone resnet34 --size 256`
    """
    ways = bench_service(backbone, size, fields=fields, rounds=rounds)
    if as_json:
        typer.echo(json.dumps([vars(way) for way in ways]))
        return
    typer.echo(f"{machine()}; {backbone}, {size} px")
    for way in ways:
        typer.echo(f"{way.name}: {way.rate:.1f} fields/s, ratio {way.ratio:.2f} ({way.least:.2f} to {way.most:.2f})")


if __name__ == "__main__":
    typer.run(bench)
