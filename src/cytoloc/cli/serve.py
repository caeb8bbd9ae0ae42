"""The command ``cytoloc serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import require_nets
from cytoloc.cli.predict import DeviceName, Engine, ModelPath, PrecisionName

GalleryDataset = Annotated[str | None, typer.Option(help="Dataset that the page shows: a folder or a URL.")]
GalleryPredictions = Annotated[
    Path | None,
    typer.Option(
        help="Predictions of --dataset by this model, from `cytoloc predict`. Default: they are computed while the"
        " service runs."
    ),
]
GalleryEmbeddings = Annotated[
    Path | None,
    typer.Option(
        help="Features of --dataset by this model, from `cytoloc embed`. Default: they are computed when the"
        " page first shows fields that look alike."
    ),
]
Corrections = Annotated[
    Path | None,
    typer.Option(help="CSV file for the labels that users save in the page. Labels in an existing file are kept."),
]
Host = Annotated[str, typer.Option(help="Address to listen on. With 127.0.0.1, only this machine can connect.")]
Port = Annotated[int, typer.Option(help="Port to listen on.")]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option(help="Host name that clients use, such as the name of this machine. Can be repeated."),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Token that clients must send as Authorization: Bearer TOKEN. Required if other machines can connect.",
        envvar="CYTOLOC_TOKEN",
        show_envvar=True,
    ),
]
MaxUpload = Annotated[int, typer.Option(help="Maximum size of a request, in megabytes.")]
MaxMegapixels = Annotated[int, typer.Option(help="Maximum number of pixels of all channels of a field, in millions.")]
Timeout = Annotated[
    float, typer.Option(help="Maximum time for receiving a request and for reading a field, in seconds.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("serve")(serve)


def serve(
    model: ModelPath,
    dataset: GalleryDataset = None,
    predictions: GalleryPredictions = None,
    embeddings: GalleryEmbeddings = None,
    corrections: Corrections = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allowed_host: AllowedHosts = None,
    token: Token = None,
    max_upload_mb: MaxUpload = 256,
    max_megapixels: MaxMegapixels = 64,
    timeout_s: Timeout = 60.0,
    requests_per_minute: Annotated[int, typer.Option(help="Maximum number of requests of a client per minute.")] = 1200,
    max_waiting: Annotated[int, typer.Option(help="Maximum number of fields that wait for the model.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Maximum number of fields per batch.")] = 16,
    device: DeviceName = None,
    precision: PrecisionName = "float32",
    engine: Engine = "auto",
) -> None:
    """Serve a model: a page to look at predictions, and a REST interface for programs.

    The page shows the channels of images, the probability of each location, and where in the image the model sees it.
    With `--dataset`, it has a gallery of all fields, which users can filter, sort and label.

    Stop the service with Ctrl-C. Batch jobs are finished first.

    Example: `cytoloc serve builtin --dataset plate7.dataset --corrections labels.csv`
    """
    require_nets()
    from cytoloc.predict.loading import load
    from cytoloc.serve.running import serve_model
    from cytoloc.serve.settings import ServeSettings

    settings = ServeSettings(
        host=host,
        port=port,
        allowed_hosts=tuple(allowed_host or ()),
        token=token,
        max_upload_mb=max_upload_mb,
        max_megapixels=max_megapixels,
        timeout_s=timeout_s,
        requests_per_minute=requests_per_minute,
        max_waiting=max_waiting,
        batch_size=batch_size,
        corrections=corrections,
    )

    def ready(address: str) -> None:
        typer.echo(f"The page is at {address}. The REST interface is described at {address}openapi.json.")
        typer.echo("Press Ctrl-C to stop.")

    serve_model(
        load(model, device=device, precision=precision, engine=engine),
        name=model.name,
        dataset=dataset,
        predictions=predictions,
        embeddings=embeddings,
        settings=settings,
        ready=ready,
    )
