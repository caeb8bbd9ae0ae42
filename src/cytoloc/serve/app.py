"""The HTTP interface of the service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import cytoloc
from cytoloc.errors import (
    DISK_ERRNOS,
    BusyError,
    ChannelError,
    CytolocError,
    FormatError,
    MissingExtraError,
    SettingsError,
    StorageError,
    UnknownIdError,
)
from cytoloc.serve.answers import ErrorAnswer, JobAnswer, ModelAnswer, PredictAnswer
from cytoloc.serve.downloads import TableFormat, png_of, table_response
from cytoloc.serve.examples import list_examples
from cytoloc.serve.gallery_routes import add_field_routes, add_gallery_routes
from cytoloc.serve.guards import LOG, Guard
from cytoloc.serve.reading import SUFFIXES
from cytoloc.serve.service import Service, joined
from cytoloc.serve.uploads import ALL_CHANNELS, save_upload, upload_files

STATIC: Final = Path(__file__).with_name("static")

MOST_FIELDS: Final = 16
"""Maximum number of fields in a request for predictions; batch jobs can have more."""

MOST_JOB_FIELDS: Final = 1000
"""Maximum number of fields of a batch job."""

MOST_TEXT_BYTES: Final = 64_000
"""Maximum size of a text in a form, in bytes."""

_STATUS: Final[tuple[tuple[type[CytolocError], int], ...]] = (
    (UnknownIdError, 404),
    (BusyError, 503),
    (FormatError, 503),
    (StorageError, 503),
    (MissingExtraError, 501),
)
"""The status of each kind of error; 422 for all others, which are about what the client sent."""

Size = Annotated[int | None, Query(ge=16, le=4096, description="Maximum edge length, in pixels.")]

PNG: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/png": {}}, "description": "A PNG image."}}

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in {
        400: "The request is not valid.",
        401: "The token is missing or wrong.",
        404: "The service does not know this id.",
        413: "The request is too large.",
        422: "The images or the settings are not valid.",
        429: "There were too many requests.",
        503: "The service is busy, or its dataset cannot be read.",
    }.items()
}


def create_app(service: Service) -> FastAPI:
    """Return the application of a service.

    Args:
        service: The service.

    Returns:
        An ASGI application.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="cytoloc",
        description="Predicts which cell compartments a fluorescently labeled protein is in.",
        version=cytoloc.__version__,
        docs_url=None,  # its page would come from another address
        redoc_url=None,
        lifespan=lifespan,
        responses=ERRORS,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=service.settings.hosts)
    app.add_middleware(Guard, settings=service.settings, metrics=service.metrics)

    # Errors are answered as JSON: what is wrong, and a hint.
    @app.exception_handler(CytolocError)
    async def cytoloc_error(request: Request, error: CytolocError) -> JSONResponse:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 422)
        answer = ErrorAnswer(
            error=error.message,
            hint=_as_form(error.hint),
            missing=list(error.missing) if isinstance(error, ChannelError) else [],
            request_id=request.state.request_id,
        )
        return JSONResponse(answer.model_dump(), status, {"Retry-After": "5"} if status == 503 else {})

    @app.exception_handler(OSError)
    async def disk_error(request: Request, error: OSError) -> JSONResponse:
        if error.errno not in DISK_ERRNOS:
            raise error
        LOG.error("The disk cannot be written to.", exc_info=error, extra={"request_id": request.state.request_id})
        answer = StorageError("The service cannot save the images, because its disk is full or cannot be written to.")
        return await cytoloc_error(request, answer)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        answer = ErrorAnswer(error=f"{where}: {first['msg']}.", request_id=request.state.request_id)
        return JSONResponse(answer.model_dump(), 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        answer = ErrorAnswer(error=f"{str(error.detail).rstrip('.')}.", request_id=request.state.request_id)
        return JSONResponse(answer.model_dump(), error.status_code, error.headers)

    _add_pages(app, service)
    _add_predictions(app, service)
    _add_jobs(app, service)
    add_gallery_routes(app, service)
    add_field_routes(app, service)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _add_pages(app: FastAPI, service: Service) -> None:
    """Add the page, the state of the service, and its metrics."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the service works")
    async def health() -> str:
        """Return ``ok``."""
        return "ok"

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics in the format of Prometheus")
    async def metrics() -> Response:
        """Return the number and time of requests, and what waits."""
        service.metrics.waiting.set(service.batcher.waiting)
        service.metrics.jobs.set(service.jobs.unfinished)
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/model", summary="Properties of the model")
    async def model() -> ModelAnswer:
        """Return the channels, the locations and the thresholds of the model, and the limits of the service."""
        found, decision = service.model, service.model.decision
        return ModelAnswer(
            name=service.name,
            fingerprint=found.fingerprint,
            channels=list(found.channels),
            size_px=found.size,
            label_set=found.label_set.name,
            locations=[{"key": each.key, "name": each.name, "go_id": each.go_id} for each in found.label_set],
            thresholds=None
            if decision is None
            else dict(zip(found.label_set.keys, decision.thresholds.tolist(), strict=True)),
            engine=found.engine,
            tta=found.info.tta,
            caution=found.info.caution,
            card=found.info.card,
            suffixes=list(SUFFIXES),
            max_upload_mb=service.settings.max_upload_mb,
            has_dataset=service.gallery is not None,
            can_correct=service.gallery is not None and service.gallery.corrections.path is not None,
            examples=list_examples(found.channels),
            version=cytoloc.__version__,
        )


def _add_predictions(app: FastAPI, service: Service) -> None:
    """Add predictions of images that clients send, and the images and maps of earlier results."""

    @app.post("/v1/predict", summary="Predict locations", openapi_extra=_form_schema(service))
    async def predict(request: Request) -> PredictAnswer:
        """Predict the locations of the protein in up to 16 fields.

        Send a file `image` with all channels of a field, or a file for each channel. `channels` says which channel is
        where in a file.
        """
        with upload_files(service.uploads) as files:
            async with request.form(
                max_files=MOST_FIELDS * 8, max_fields=MOST_FIELDS * 8, max_part_size=MOST_TEXT_BYTES
            ) as form:
                upload = await asyncio.to_thread(
                    save_upload, form, files, channels=service.model.channels, max_fields=MOST_FIELDS
                )
            return await service.answer(upload)

    @app.get("/v1/examples/{example}", summary="Predict a simulated example")
    async def example(example: str) -> PredictAnswer:
        """Predict one of the simulated fields that `/v1/model` lists."""
        return await service.example(example)

    @app.get("/v1/results/{token}/channel", summary="Image of a channel", response_class=Response, responses=PNG)
    async def channel(token: str, name: str, size: Size = None) -> Response:
        """Return a channel of an image of an earlier request."""
        field = service.results.get(token).field
        if name not in field.channels:
            raise UnknownIdError(f"The image has no channel {name[:80]!r}.")
        plane = field.shown[field.channels.index(name)]
        return Response(await asyncio.to_thread(png_of, plane, size=size), media_type="image/png")

    @app.get("/v1/results/{token}/map", summary="Class activation map", response_class=Response, responses=PNG)
    async def location_map(token: str, location: str) -> Response:
        """Return where in an image the model sees a location: a gray image, white where its strongest signs are."""
        return Response(png_of(await service.result_map(token, location)), media_type="image/png")


def _add_jobs(app: FastAPI, service: Service) -> None:
    """Add batch jobs."""

    @app.post("/v1/jobs", summary="Start a batch job", status_code=202, openapi_extra=_form_schema(service))
    async def start(request: Request) -> JobAnswer:
        """Predict up to 1000 fields in the background. The form is that of `/v1/predict`."""
        service.jobs.refuse_if_full()
        with upload_files(service.uploads, is_kept=True) as files:
            async with request.form(
                max_files=MOST_JOB_FIELDS * 8, max_fields=MOST_JOB_FIELDS * 2, max_part_size=MOST_TEXT_BYTES
            ) as form:
                upload = await asyncio.to_thread(
                    save_upload, form, files, channels=service.model.channels, max_fields=MOST_JOB_FIELDS
                )
            service.refuse_missing(upload)
            return service.jobs.add(upload, files).answer  # the job removes the files

    @app.get("/v1/jobs/{job_id}", summary="State of a batch job")
    async def state(job_id: str) -> JobAnswer:
        """Return how many fields are finished."""
        return service.jobs.get(job_id).answer

    @app.get("/v1/jobs/{job_id}/results", summary="Results of a batch job", response_class=Response)
    async def results(job_id: str, format: TableFormat = "csv") -> Response:  # noqa: A002  the name in the address
        """Return the predictions of a finished job, as a table or as JSON."""
        job = service.jobs.get(job_id)
        if job.state != "done":
            raise SettingsError(f"The job is {job.state}, so it has no results.", hint="Ask for its state.")
        if not job.parts:
            raise SettingsError("The job has no results, because no field could be read.")
        return await asyncio.to_thread(table_response, joined(job.parts), format)

    @app.delete("/v1/jobs/{job_id}", summary="Cancel a batch job")
    async def cancel(job_id: str) -> JobAnswer:
        """Cancel a job, or forget the results of a finished one."""
        return service.jobs.cancel(job_id).answer


def _as_form(text: str) -> str:
    """Return a hint of the library with the value of `absent` as clients send it.

    >>> _as_form("Write for example `absent={'er': 'zero', 'nucleus': 'protein'}`.")
    'Write for example `absent=er=zero,nucleus=protein`.'
    """
    return re.sub(r"\{('[^{}]*')\}", lambda found: found[1].strip("'").replace("': '", "=").replace("', '", ","), text)


def _form_schema(service: Service) -> dict[str, Any]:
    """Return the form of a request with images, for the OpenAPI description."""
    file = {"type": "array", "items": {"type": "string", "format": "binary"}}
    channels = service.model.channels
    substitutes = ["zero", *channels]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            ALL_CHANNELS: file | {"description": "Files with all channels, or NumPy arrays (.npy)."},
                            **{name: file | {"description": f"Files with the channel {name}."} for name in channels},
                            "channels": {
                                "type": "string",
                                "description": "All channels of a file in order, or a JSON object of the number (from"
                                " 0) or name of each channel. Default: the channels of the model in order, except those"
                                " in absent.",
                                "examples": [",".join(channels), '{"protein": "GFP"}'],
                            },
                            "absent": {
                                "type": "string",
                                "description": "Substitutes for channels that were not imaged: CHANNEL=zero for a black"
                                f" image, or CHANNEL=OTHER for a copy. Known are {', '.join(substitutes)}.",
                                "examples": [f"{channels[-1]}=zero"],
                            },
                            "tta": {"type": "string", "enum": ["1", "2", "4", "8"]},
                            "pixel_um": {"type": "string", "description": "Pixel size in micrometers."},
                            "id": {"type": "array", "items": {"type": "string"}, "description": "Id of each field."},
                        },
                    }
                }
            },
        }
    }
