"""Protection of the service: limits, tokens, origins, headers, the log and the metrics."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import sys
import time
from typing import Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cytoloc.serve.answers import ErrorAnswer
from cytoloc.serve.settings import ServeSettings

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self';"
    " object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""Headers of every answer: the page takes nothing from other addresses, and no other page can embed it."""

PROTECTED: Final = ("/v1/", "/metrics")
"""Beginnings of paths that need the token. The page itself holds no data."""

UNLIMITED: Final = ("/healthz", "/static/")
"""Beginnings of paths that the rate limit does not count."""

DRAIN_S: Final = 10.0
"""Maximum time for receiving the rest of a refused request, in seconds."""

LOG: Final = logging.getLogger("cytoloc.serve")


class ServiceMetrics:
    """Metrics in the format of Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cytoloc_requests", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram("cytoloc_request_seconds", "Time of requests.", ["route"], registry=self.registry)
        self.fields = Counter("cytoloc_fields", "Fields that were predicted.", registry=self.registry)
        self.waiting = Gauge("cytoloc_waiting_fields", "Fields that wait for the model.", registry=self.registry)
        self.jobs = Gauge("cytoloc_unfinished_jobs", "Batch jobs that are not finished.", registry=self.registry)


class _RefusedError(Exception):
    """A request that is refused, with its answer."""

    def __init__(self, status: int, error: str, *, hint: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.hint, self.headers = status, error, hint, headers or {}


class Guard:
    """Middleware that checks each request, and adds headers, a line in the log and metrics.

    Args:
        app: The application.
        settings: The limits and the token.
        metrics: The metrics.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: ServiceMetrics) -> None:
        self.app = app
        self._settings = settings
        self._metrics = metrics
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started, status = secrets.token_hex(8), time.perf_counter(), 500
        scope.setdefault("state", {})["request_id"] = request_id
        answered = False

        async def answer(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                answered, status = True, message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**HEADERS, "X-Request-ID": request_id})
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            await self._check(scope)
            await self.app(scope, self._counted(scope, receive), answer)
        except _RefusedError as refused:
            if answered:
                raise
            await self._drain(scope, receive)
            content = ErrorAnswer(error=refused.error, hint=refused.hint, request_id=request_id).model_dump()
            await JSONResponse(content, refused.status, {**refused.headers, "Connection": "close"})(
                scope, receive, answer
            )
        except Exception:
            LOG.exception("A request failed.", extra={"request_id": request_id})
            if answered:
                raise
            content = ErrorAnswer(
                error="The service failed to answer.", hint="See its log.", request_id=request_id
            ).model_dump()
            await JSONResponse(content, 500)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            # The template of the route, so that ids do not make new metrics.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(seconds)
            LOG.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "seconds": round(seconds, 4),
                    "client": _client(scope),
                },
            )

    async def _check(self, scope: Scope) -> None:
        """Raise unless a request has an allowed origin and the token, and is within the rate limit and the size."""
        headers, path = Headers(scope=scope), str(scope["path"])
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise _RefusedError(403, "Other web sites cannot use this service.")
        if not path.startswith(UNLIMITED) and not await self._limiter.hit(self._rate, _client(scope)):
            raise _RefusedError(
                429,
                f"There were more than {self._settings.requests_per_minute} requests in a minute.",
                hint="Wait a minute. A batch job sends many fields in one request.",
                headers={"Retry-After": "60"},
            )
        token = self._settings.token
        if token is not None and path.startswith(PROTECTED):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
                raise _RefusedError(
                    401,
                    "The token is missing or wrong.",
                    hint="Send the header Authorization: Bearer TOKEN.",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._most_bytes:
            raise self._too_large()

    @property
    def _most_bytes(self) -> int:
        return self._settings.max_upload_mb * 1_000_000

    def _too_large(self) -> _RefusedError:
        return _RefusedError(
            413, f"The request is larger than {self._settings.max_upload_mb} MB.", hint="Send fewer or smaller files."
        )

    async def _drain(self, scope: Scope, receive: Receive) -> None:
        """Receive the rest of a refused request, up to a limit, so that the client reads the answer."""
        if scope["method"] in ("GET", "HEAD"):
            return
        left, deadline = 2 * self._most_bytes, asyncio.get_running_loop().time() + DRAIN_S
        while left > 0:
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                return
            if message["type"] != "http.request" or not message.get("more_body", False):
                return
            left -= len(message.get("body", b""))

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """Return a function that receives the body of a request, within the limits of size and time."""
        if scope["method"] in ("GET", "HEAD"):
            return receive
        total, deadline, is_complete = 0, asyncio.get_running_loop().time() + self._settings.timeout_s, False

        async def counted() -> Message:
            nonlocal total, is_complete
            if is_complete:  # waits for the client to go
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise _RefusedError(
                    408, f"The request did not arrive in {self._settings.timeout_s:g} seconds.", hint="Send it again."
                ) from None
            total += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if total > self._most_bytes:
                raise self._too_large()
            return message

        return counted


def _client(scope: Scope) -> str:
    """Return the address of the client."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else "local"


def log_as_json() -> None:
    """Write the log of the service to standard error: a JSON object per line. Images are never part of it."""
    handler = logging.StreamHandler(sys.stderr)
    # uvicorn gives its messages a second time, with color codes of terminals.
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s", reserved_attrs=[*RESERVED_ATTRS, "color_message"]
        )
    )
    for name in ("cytoloc.serve", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
