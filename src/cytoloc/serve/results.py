"""Images and predictions of earlier requests, which the page shows; the oldest are forgotten."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from cytoloc._typing import UInt8Array
from cytoloc.errors import UnknownIdError
from cytoloc.predictions import Predictions
from cytoloc.serve.reading import ReadField

_OVERHEAD_BYTES: Final = 20_000


@dataclass(frozen=True, eq=False)
class KeptResult:
    """A field of an earlier request.

    Attributes:
        token: The name of the result in addresses. It cannot be guessed.
        field: The images.
        predictions: The predictions of this field.
        absent: The substitutes for channels that were not imaged.
        maps: The maps that were computed, by the key of the location: uint8 of shape ``(size, size)``.
    """

    token: str
    field: ReadField
    predictions: Predictions
    absent: dict[str, str]
    maps: dict[str, UInt8Array] = dataclasses.field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Memory that the result needs, in bytes, with a map for every fourth location."""
        size = self.field.image.shape[-1]
        maps = size * size * len(self.predictions.label_set) // 4
        return int(self.field.image.nbytes + self.field.shown.nbytes + maps + _OVERHEAD_BYTES)


class ResultStore:
    """The results of the last requests.

    Args:
        kept_mb: Memory for the results, in megabytes.
    """

    def __init__(self, kept_mb: int) -> None:
        self._kept: LRUCache[str, KeptResult] = LRUCache(kept_mb * 1e6, getsizeof=lambda result: result.n_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, field: ReadField, predictions: Predictions, absent: dict[str, str]) -> KeptResult:
        """Keep a result, and return it with its token."""
        result = KeptResult(secrets.token_urlsafe(16), field, predictions, absent)
        if result.n_bytes <= self._kept.maxsize:
            self._kept[result.token] = result
        return result

    def get(self, token: str) -> KeptResult:
        """Return a result.

        Raises:
            UnknownIdError: If there is none, or it was forgotten.
        """
        result = self._kept.get(token)
        if result is None:
            raise UnknownIdError(
                "The service does not know this result.", hint="It keeps the last results only. Send the images again."
            )
        return result
