"""Metrics of failures, and the metrics of a worker. tests/monitoring checks what monitoring/ makes of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from conftest import ClientOf
from fakes import RecordingEncoder
from peers import peer
from pools import until
from processes import free_ports, working
from prometheus_client.parser import text_string_to_metric_families

from service import wire
from service.settings import Settings

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def reaches(http: httpx.AsyncClient, name: str, expected: float) -> None:
    if value(read((await http.get("/metrics")).text), name) != expected:
        await asyncio.sleep(0.01)
        await reaches(http, name, expected)


async def test_refused_and_expired_texts_are_counted(client_of: ClientOf, recording_encoder: RecordingEncoder) -> None:
    """Texts that found no room and those that left the queue at their deadline are counted, and requests by outcome."""
    recording_encoder.gate.clear()
    async with client_of(Settings(max_queue_texts=3, max_request_texts=3)) as http:
        first = asyncio.create_task(http.post("/embed", json=["a"]))
        await until(lambda: bool(recording_encoder.calls))
        late = await http.post("/embed", json=["b", "c"], headers={"X-Timeout-Ms": "20"})
        queued = asyncio.create_task(http.post("/embed", json=["b", "c"]))
        async with asyncio.timeout(60):
            await reaches(http, "danmaku_queue_texts", 2)
        refused = await http.post("/embed", json=["d", "e"])
        busy = read((await http.get("/metrics")).text)
        recording_encoder.gate.set()
        answers = await asyncio.gather(first, queued)
        after = read((await http.get("/metrics")).text)

    assert [answer.status_code for answer in (late, refused, *answers)] == [504, 429, 200, 200]
    assert value(busy, "danmaku_in_flight_texts") == 1 and value(busy, "danmaku_queue_limit_texts") == 3
    assert value(after, "danmaku_refused_texts_total") == 2
    assert value(after, "danmaku_expired_texts_total") == 2
    counted = {
        o: value(after, "danmaku_requests_total", route="/embed", outcome=o) for o in ("ok", "refused", "expired")
    }
    assert counted == {"ok": 2, "refused": 1, "expired": 1}
    assert value(after, "danmaku_requests_total", route="/embed", outcome="failed") == 0
    assert value(after, "danmaku_queue_texts") == value(after, "danmaku_in_flight_texts") == 0


async def test_the_readiness_metric_agrees_with_readyz(
    recording_client: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    for obstacle, status, ready in ((None, 200, 1), ("no worker is ready", 503, 0), (None, 200, 1)):
        recording_encoder.obstacle = obstacle
        assert (await recording_client.get("/readyz")).status_code == status
        assert value(read((await recording_client.get("/metrics")).text), "danmaku_ready") == ready


def test_a_worker_has_metrics_of_its_own(tiny_model: Path) -> None:
    """It has a port for them: requests by outcome, texts, calls, clients, its model."""
    (port,) = free_ports(1)
    with working(tiny_model, "-max_seq_len", "12", "-metrics_port", str(port)) as worker, peer(worker) as it:
        before = read(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        it.encode(["草", "awsl"])
        it.send(it.identity, b"{", b"2", b"1")
        assert isinstance(it.receive(), wire.ErrorReply)
        after = read(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        config = worker.client()
        fingerprint = config.server_config["fingerprint"]
        config.close()

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    outcomes = {o: grown("danmaku_worker_requests_total", outcome=o) for o in ("ok", "invalid", "failed", "unclaimed")}
    assert outcomes == {"ok": 1, "invalid": 1, "failed": 0, "unclaimed": 0}
    assert grown("danmaku_worker_texts_total") == grown("danmaku_worker_batch_texts_sum") == 2
    assert grown("danmaku_worker_encode_seconds_count") >= 1
    assert value(after, "danmaku_worker_active_clients") == 1
    assert value(after, "danmaku_worker_requests_in_progress") == value(after, "danmaku_worker_held_bytes") == 0
    assert value(after, "danmaku_worker_model_info", model="tiny", dim="16", fingerprint=fingerprint) == 1
    assert value(after, "process_resident_memory_bytes") > 0
