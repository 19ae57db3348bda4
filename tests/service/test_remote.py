"""A pool of real workers: their vectors, and what happens to texts when workers die, hang, stop and return."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from peers import client_status
from pools import encode, expected_of, gateway, pool, ready, under_load, until, until_more
from processes import RunningWorker, free_ports, hang, working

from service.app import create_app
from service.encoders.open import EncoderSettings, open_encoder
from service.encoders.remote import RemoteEncoder
from service.metrics import Metrics
from service.settings import Settings

FLAGS = ("-max_seq_len", "NONE")
TEXTS = ["草", "awsl", "阿夸 ||| 晚安", "|||", "草|||||||草", "哈" * 30, "aqua 清楚！", "233?"]


@pytest.fixture(scope="module")
def two_workers(tiny_model: Path) -> Iterator[tuple[RunningWorker, RunningWorker]]:
    """Two workers for tests that do not change them."""
    with working(tiny_model, *FLAGS) as first, working(tiny_model, *FLAGS, "-sentence_pairs") as second:
        yield first, second


async def test_vectors_are_those_of_an_encoder_in_this_process(
    two_workers: tuple[RunningWorker, RunningWorker], tiny_model: Path
) -> None:
    """The gateway also reads texts as the worker does: fingerprint, lengths and unknown characters are equal."""
    local = await open_encoder(f"onnx://{tiny_model}", EncoderSettings(), Metrics())
    texts = [local.model.reader.normalize(text) for text in [*TEXTS, "😂"]]
    async with pool(two_workers[0]) as encoder:
        assert [encoder.model.reader.normalize(text) for text in [*TEXTS, "😂"]] == texts
        assert encoder.model.reader.prepare_normalized(texts) == local.model.reader.prepare_normalized(texts)
        for told in ("name", "fingerprint", "dim", "max_seq_len", "pooling_layer", "pooling_strategy"):
            assert getattr(encoder.model, told) == getattr(local.model, told)
        vectors = await encoder.encode(encoder.model.reader.prepare_normalized(texts))
    np.testing.assert_allclose(vectors, await local.encode(local.model.reader.prepare_normalized(texts)), atol=1e-6)
    await local.aclose()


async def test_bars_do_not_make_a_pair(two_workers: tuple[RunningWorker, RunningWorker]) -> None:
    """This holds also for workers with pairs enabled, as they are in the genuine server."""
    plain, pairing = two_workers
    async with pool(plain) as encoder:
        expected = await encode(encoder, TEXTS)
    async with pool(pairing) as encoder:
        np.testing.assert_allclose(await encode(encoder, TEXTS), expected, atol=1e-6)


async def test_workers_of_one_model_share_one_vocabulary(
    two_workers: tuple[RunningWorker, RunningWorker], tiny_model: Path
) -> None:
    with working(tiny_model, *FLAGS) as third:
        async with pool(two_workers[0], third) as encoder:
            assert len({worker.model for worker in encoder._workers.values()}) == 1


def retried(metrics: Metrics) -> float:
    """Returns the number of calls given to another worker, because the first was gone or too slow."""
    counts = (
        metrics.registry.get_sample_value("danmaku_calls_retried_total", {"reason": reason})
        for reason in ("lost", "slow")
    )
    return sum(count or 0 for count in counts)


async def test_a_killed_worker_loses_no_request(tiny_model: Path) -> None:
    """Its batches go to the other one; after a restart on the same ports it is used again."""
    expected, metrics = await expected_of(tiny_model), Metrics()
    with working(tiny_model, *FLAGS) as stays, working(tiny_model, *FLAGS) as dies:
        async with (
            pool(stays, dies, metrics=metrics) as encoder,
            gateway(encoder) as embedder,
            under_load(embedder, expected) as answered,
        ):
            await until_more(answered)
            hang(dies.process)  # so that it has not answered all when it is killed
            await asyncio.sleep(0.1)  # what it had answered is read: what it owes now is lost
            await until(lambda: encoder.workers[1]["owed_tokens"] > 0)
            dies.kill()
            await until(lambda: ready(encoder) == 1)
            await until_more(answered)
            with working(tiny_model, *FLAGS, ports=(dies.port, dies.port_out)) as again:
                await until(lambda: ready(encoder) == 2)
                await until_more(answered)
                statistic = (await asyncio.to_thread(client_status, again))["statistic"]

    assert statistic["num_data_request"] > 0
    assert retried(metrics) >= 1


async def test_a_stopped_worker_is_detected(tiny_model: Path) -> None:
    """It has open connections but does not answer; its batches go to the other one."""
    expected, metrics = await expected_of(tiny_model), Metrics()
    with working(tiny_model, *FLAGS) as works, working(tiny_model, *FLAGS) as hangs:
        async with (
            pool(hangs, works, metrics=metrics) as encoder,
            gateway(encoder) as embedder,
            under_load(embedder, expected) as answered,
        ):
            await until_more(answered)
            hang(hangs.process)
            await until(lambda: ready(encoder) == 1)
            await until_more(answered)
            hangs.process.send_signal(signal.SIGCONT)
            await until(lambda: ready(encoder) == 2)

    assert retried(metrics) >= 1


async def test_a_delayed_gateway_does_not_blame_the_workers(
    two_workers: tuple[RunningWorker, RunningWorker], caplog: pytest.LogCaptureFixture
) -> None:
    """When it continues, the time for an answer is over, but the answer has arrived."""
    worker, _ = two_workers
    async with pool(worker) as encoder:
        hang(worker.process)
        await asyncio.sleep(0.6)  # so that it owes an answer
        worker.process.send_signal(signal.SIGCONT)
        threading.Event().wait(2)  # the event loop stands still
        await asyncio.sleep(0.5)

        assert ready(encoder) == 1
        assert "not ready" not in caplog.text


async def test_a_worker_that_shuts_down_loses_no_request(tiny_model: Path) -> None:
    expected = await expected_of(tiny_model)
    with working(tiny_model, *FLAGS) as stays, working(tiny_model, *FLAGS) as ends:
        async with (
            pool(ends, stays) as encoder,
            gateway(encoder) as embedder,
            under_load(embedder, expected) as answered,
        ):
            await until_more(answered)
            ends.process.terminate()
            await until(lambda: ready(encoder) == 1)
            await until_more(answered)


async def test_the_model_of_most_workers_takes_over_under_load(tiny_model: Path) -> None:
    """Every response comes from one model, which it names, and none is an error."""
    (old, of_old), (new, of_new) = [
        *(await expected_of(tiny_model)).items(),
        *(await expected_of(tiny_model, -1)).items(),
    ]
    metrics = Metrics()
    assert old != new
    with (
        working(tiny_model, *FLAGS) as stays,
        working(tiny_model, *FLAGS) as goes,
        working(tiny_model, *FLAGS, "-pooling_layer", "-1") as comes,
    ):
        async with (
            pool(stays, goes, comes, metrics=metrics) as encoder,
            gateway(encoder) as embedder,
            under_load(embedder, {old: of_old, new: of_new}) as answered,
        ):
            await until(lambda: encoder.model.fingerprint == old)  # it may have been the other that came first
            assert metrics.registry.get_sample_value("danmaku_worker_fingerprints") == 2
            answered.clear()
            await until_more(answered)
            goes.kill()
            await until(lambda: ready(encoder) == 2)
            await until_more(answered)
            assert encoder.model.fingerprint == old  # a tie leaves it as it was
            stays.kill()
            await until(lambda: encoder.model.fingerprint == new)
            answered.clear()
            await until_more(answered)

            assert answered[-1] == new
            assert metrics.registry.get_sample_value("danmaku_worker_fingerprints") == 1


async def test_without_workers_a_gateway_answers_from_its_cache(tiny_model: Path) -> None:
    """It starts without workers, serves when one joins, is not ready when it leaves, and serves again."""
    ports = free_ports(2)
    app = create_app(Settings(encoder=f"bert://localhost:{ports[0]}:{ports[1]}"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):

        async def status(path: str, texts: list[str] | None = None) -> int:
            answer = await (client.post(path, json=texts) if texts else client.get(path))
            assert answer.status_code == 200 or answer.headers["retry-after"] == "1"
            return answer.status_code

        async def until_ready(expected: int) -> None:
            for _ in range(3000):
                if await status("/readyz") == expected:
                    return
                await asyncio.sleep(0.01)
            raise AssertionError("waited in vain")

        assert [await status("/readyz"), await status("/embed", ["草"]), await status("/info")] == [503, 503, 503]
        assert "bert://localhost" in (await client.get("/readyz")).json()["error"]
        with working(tiny_model, *FLAGS, ports=ports) as worker:
            await until_ready(200)
            assert await status("/embed", ["草"]) == 200
            (shown,) = (await client.get("/info")).json()["workers"]
            assert (shown["ready"], shown["model"]) == (True, "tiny")
            worker.kill()
        await until_ready(503)
        assert [await status("/embed", ["草"]), await status("/embed", ["好"])] == [200, 503]
        with working(tiny_model, *FLAGS, ports=ports):
            await until_ready(200)
            assert await status("/embed", ["好"]) == 200
            assert "danmaku_workers_ready 1.0" in (await client.get("/metrics")).text


async def test_the_workers_of_a_dns_name_are_found(tiny_model: Path) -> None:
    ports = free_ports(2)
    with working(tiny_model, *FLAGS, ports=ports):
        encoder = await RemoteEncoder.open(f"bert+dns://localhost:{ports[0]}:{ports[1]}", Metrics())
        await until(lambda: ready(encoder) == 1)
        assert (await encode(encoder, ["草"])).shape == (1, 16)
        await encoder.aclose()
