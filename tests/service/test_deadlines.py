"""How long a caller waits, and what happens to the texts of callers who gave up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fakes import RecordingEncoder

from service.app import create_app
from service.settings import Settings


@pytest.fixture
async def gateway(recording_encoder: RecordingEncoder) -> AsyncIterator[httpx.AsyncClient]:
    """An application over an encoder that waits at its gate."""

    recording_encoder.gate.clear()
    app = create_app(Settings(request_timeout_s=0.2), encoder=recording_encoder)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield http
        recording_encoder.gate.set()


@pytest.mark.parametrize(
    ("headers", "allowed_ms"),
    [({}, 200), ({"X-Timeout-Ms": "20"}, 20), ({"X-Timeout-Ms": "86400000"}, 200)],
)
async def test_a_late_response_is_an_error(
    gateway: httpx.AsyncClient, headers: dict[str, str], allowed_ms: int
) -> None:
    """The limit is the request's own, or the gateway's if that is less."""
    answer = await asyncio.wait_for(gateway.post("/embed", json=["草"], headers=headers), 10)

    assert (answer.status_code, answer.json()["error_type"]) == (504, "out_of_time")
    assert answer.json()["error"].startswith(f"not done within {allowed_ms} ms")


async def test_expired_texts_are_not_encoded(gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder) -> None:
    """Those in the queue are dropped at the deadline."""
    first = asyncio.create_task(gateway.post("/embed", json=["草"]))
    await recording_encoder.until_called()
    assert recording_encoder.calls == [["草"]]
    late = await gateway.post("/embed", json=["好", "死"], headers={"X-Timeout-Ms": "20"})
    recording_encoder.gate.set()

    assert (late.status_code, (await first).status_code) == (504, 200)
    assert recording_encoder.calls == [["草"]]


async def test_cached_texts_are_answered_while_the_encoder_hangs(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    recording_encoder.gate.set()
    await gateway.post("/embed", json=["草"])
    recording_encoder.gate.clear()

    assert (await gateway.post("/embed", json=["草"], headers={"X-Timeout-Ms": "1"})).status_code == 200
