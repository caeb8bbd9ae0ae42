"""Settings of the service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cytoloc.choices import check_type
from cytoloc.errors import SettingsError

LOOPBACK: Final = "127.0.0.1"
"""The address of this machine, which other machines cannot reach."""

_RANGES: Final = {
    "port": (1, 65_535),
    "max_upload_mb": (1, 65_536),
    "max_megapixels": (1, 4_096),
    "timeout_s": (1, 3_600),
    "requests_per_minute": (1, 1_000_000),
    "max_waiting": (1, 10_000),
    "batch_size": (1, 1_024),
    "readers": (1, 256),
    "kept_mb": (16, 65_536),
}
"""The smallest and the largest value of each number."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Settings of the service.

    Attributes:
        host: The address to listen on. With the default, only this machine can connect.
        port: The port to listen on.
        allowed_hosts: Host names that clients may use, in addition to ``host`` and ``localhost``.
        token: The token that clients must send as ``Authorization: Bearer TOKEN``. None: no token is needed.
        max_upload_mb: Maximum size of a request, in megabytes.
        max_megapixels: Maximum number of pixels of all channels of a field, in millions.
        timeout_s: Maximum time for receiving a request, and for reading the images of a field, in seconds.
        requests_per_minute: Maximum number of requests of a client per minute.
        max_waiting: Maximum number of fields that wait for the model, and of batch jobs that are not finished.
        batch_size: Maximum number of fields per batch.
        readers: Number of processes that read images.
        kept_mb: Memory for images of earlier requests, which the page shows, in megabytes.
        corrections: CSV file for labels that users save in the page. Required to save labels.

    Raises:
        ArgumentTypeError: If a value has the wrong type.
        SettingsError: If a value is out of range, or the service could be reached from other machines without a token.
    """

    host: str = LOOPBACK
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    token: str | None = None
    max_upload_mb: int = 256
    max_megapixels: int = 64
    timeout_s: float = 60.0
    requests_per_minute: int = 1200
    max_waiting: int = 64
    batch_size: int = 16
    readers: int = 2
    kept_mb: int = 256
    corrections: Path | None = None

    def __post_init__(self) -> None:
        check_type(self.host, str, argument="host")
        check_type(self.token, (str, type(None)), argument="token")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            check_type(value, (int, float) if name == "timeout_s" else int, argument=name)
            if not low <= value <= high:
                raise SettingsError(f"`{name}` is {value}, but must be from {low} to {high}.")
        if self.token is not None and len(self.token) < 16:
            raise SettingsError(
                f"`token` has {len(self.token)} characters, which is too short to be secret.",
                hint="Give at least 16 characters, for example the output of openssl rand -hex 16.",
            )
        if self.token is None and not self.is_local:
            raise SettingsError(
                f"`host` is {self.host}, so other machines can connect, but there is no `token`.",
                hint="Give a `token`, or listen on 127.0.0.1 only.",
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in (LOOPBACK, "localhost", "::1")

    @property
    def hosts(self) -> list[str]:
        """The host names that clients may use."""
        return sorted({self.host, LOOPBACK, "localhost", "[::1]", *self.allowed_hosts})
