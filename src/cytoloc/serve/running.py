"""Starting the service."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path

from cytoloc.choices import check_type
from cytoloc.dataset.store import open_dataset
from cytoloc.embed.embeddings import read_embeddings
from cytoloc.errors import BusyError, MissingExtraError, SettingsError, installing
from cytoloc.files import refuse_url
from cytoloc.predict.model import Model
from cytoloc.prediction_files import read_predictions
from cytoloc.serve.settings import ServeSettings


def serve_model(
    model: Model,
    *,
    name: str = "model",
    dataset: str | Path | None = None,
    predictions: str | Path | None = None,
    embeddings: str | Path | None = None,
    settings: ServeSettings = ServeSettings(),
    ready: Callable[[str], None] = lambda _address: None,
) -> None:
    """Serve a model: a page to look at predictions, and a REST interface. Returns when the service is stopped.

    Args:
        model: The model.
        name: The name of the model in the page.
        dataset: A dataset that the page shows.
        predictions: Predictions of the dataset by the model. Default: they are computed while the service runs.
        embeddings: Features of the dataset by the model; see ``cytoloc embed``. Default: they are computed when they
            are needed.
        settings: The address and the limits.
        ready: A function that is called with the address of the page before the service starts.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        BusyError: If another program uses the port.
        SettingsError: If predictions, embeddings or corrections are given without a dataset.
        MissingExtraError: If the libraries of the service are not installed.
        FormatError: If the dataset does not exist or is damaged.
    """
    check_type(model, Model, argument="model")
    check_type(name, str, argument="name")
    check_type(settings, ServeSettings, argument="settings")
    try:
        import uvicorn

        from cytoloc.serve.app import create_app
        from cytoloc.serve.gallery import Gallery
        from cytoloc.serve.guards import log_as_json
        from cytoloc.serve.service import Service
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"The service needs {error.name}.", hint=installing("serve")) from error
    if dataset is None:
        for argument, value in (
            ("predictions", predictions),
            ("embeddings", embeddings),
            ("corrections", settings.corrections),
        ):
            if value is not None:
                raise SettingsError(f"`{argument}` needs a `dataset`.", hint="Give the dataset that the page shows.")
    if settings.corrections is not None:
        refuse_url(settings.corrections)
    with listening(settings.host, settings.port) as listener:
        gallery = None
        if dataset is not None:
            gallery = Gallery(
                open_dataset(dataset),
                model,
                predictions=None if predictions is None else read_predictions(predictions),
                embeddings=None if embeddings is None else read_embeddings(embeddings),
                corrections=settings.corrections,
            )
        service = Service(model, name=name, settings=settings, gallery=gallery)
        log_as_json()
        config = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=4 * settings.max_waiting,
            timeout_keep_alive=15,
            h11_max_incomplete_event_size=64 * 1024,
        )
        ready(f"http://{settings.host}:{settings.port}/")
        uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port, so that a port in use is known before the model is prepared.

    Args:
        host: The address.
        port: The port.

    Returns:
        The socket.

    Raises:
        BusyError: If another program uses the port.
        SettingsError: If the address is not one of this machine, or the port is not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"Another program uses port {port} of {host}.", hint=f"Choose another `port`, such as {port + 1}."
            ) from error
        raise SettingsError(
            f"The service cannot listen on port {port} of {host}: {error.strerror or error}.",
            hint="Give an address of this machine as `host`, and a `port` from 1024.",
        ) from error
    return listener
