"""A service that runs in a thread of the tests, with the built-in model and a simulated dataset."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
import uvicorn

import cytoloc
from cytoloc._typing import UInt8Array
from cytoloc.dataset.store import Dataset
from cytoloc.predict.model import Model
from cytoloc.serve.app import create_app
from cytoloc.serve.gallery import Gallery
from cytoloc.serve.running import listening
from cytoloc.serve.service import Service
from cytoloc.serve.settings import ServeSettings
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import Design, plan_one
from cytoloc.simulate.study import simulate_dataset

SIZE = 128
TOKEN = "a-long-and-secret-token"


@dataclass(frozen=True)
class Running:
    """A service that runs."""

    client: httpx.Client
    service: Service
    address: str


@pytest.fixture(scope="session")
def builtin() -> Model:
    """Return the built-in model with one view per field instead of eight."""
    model = cytoloc.load("builtin", device="cpu", engine="torch")
    model.info = replace(model.info, tta=1)
    return model


@pytest.fixture(scope="session")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset of 12 simulated fields."""
    return simulate_dataset(tmp_path_factory.mktemp("serve") / "plate.dataset", Design(n_fields=12, seed=7, size=SIZE))


@pytest.fixture(scope="session")
def field() -> UInt8Array:
    """Return a simulated field with a protein in nucleoli, uint8 of shape ``(4, 128, 128)``."""
    return draw_field(plan_one(2, seed=2018, size=512), size=SIZE)


@contextmanager
def running(model: Model, settings: ServeSettings, *, gallery: Gallery | None = None) -> Iterator[Running]:
    """Run a service on a free port, and stop it at the end of the block."""
    service = Service(model, name="builtin", settings=settings, gallery=gallery)
    listener = listening("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(create_app(service), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    try:
        with httpx.Client(base_url=address, headers=headers, timeout=120) as client:
            wait_until(lambda: server.started)
            yield Running(client, service, address)
    finally:
        server.should_exit = True
        thread.join()


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < deadline, "The service did not get there."
        time.sleep(0.02)


@pytest.fixture(scope="session")
def server(builtin: Model, fields: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Return a service with a dataset."""
    labels = tmp_path_factory.mktemp("labels") / "labels.csv"
    settings = ServeSettings(max_upload_mb=8, max_megapixels=4, requests_per_minute=100_000, corrections=labels)
    gallery = Gallery(fields, builtin, corrections=labels)
    with running(builtin, settings, gallery=gallery) as found:
        wait_until(lambda: gallery.done == len(fields))
        yield found


def png_files(field: UInt8Array, folder: Path) -> dict[str, Path]:
    """Write a field as one PNG file per channel, and return their paths by channel."""
    paths = {}
    for name, plane in zip(cytoloc.CHANNELS, field, strict=True):
        paths[name] = folder / f"C03_{name}.png"
        cv2.imwrite(str(paths[name]), np.ascontiguousarray(plane))
    return paths
