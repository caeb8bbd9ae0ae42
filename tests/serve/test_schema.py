"""Requests made from the OpenAPI description, and uploads that are changed at random."""

from __future__ import annotations

import random
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from cytoloc._typing import UInt8Array
from tests.serve.conftest import Running
from tests.serve.fuzz import send_damaged

pytestmark = [
    pytest.mark.filterwarnings("ignore::cytoloc.errors.ModelCaution"),
    pytest.mark.filterwarnings("ignore::cytoloc.errors.EngineWarning"),
]


def test_no_request_from_the_schema_fails_the_service(server: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    assert len(operations) >= 18
    quick = settings(
        max_examples=5, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    for operation in operations:

        @quick
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            case.call_and_validate(base_url=server.address, checks=[schemathesis.checks.not_a_server_error])

        call()


def test_damaged_uploads_are_refused(server: Running, field: UInt8Array) -> None:
    rng = random.Random(1)
    codes = [send_damaged(server.client, field, rng) for _ in range(60)]
    assert set(codes) <= {200, 422}
    assert codes.count(422) > 10
