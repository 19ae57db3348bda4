"""A pool of scripted workers: which worker gets which texts, and which answers are valid."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import zmq.asyncio
from peers import GENUINE, ScriptedWorker
from pools import encode, pool, ready, until

from service import wire
from service.encoders.model import Model, Prepared
from service.encoders.open import EncoderSettings, open_encoder
from service.encoders.pooled_worker import resolve
from service.encoders.remote import RemoteEncoder
from service.encoders.remote_model import ApproximateInputs, read_fingerprint
from service.encoders.worker_connection import WorkerConnection, WorkerLost
from service.errors import ConfigurationError, EncoderFailure, EncoderUnavailable, ModelGone
from service.metrics import Metrics


def retried(metrics: Metrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("danmaku_calls_retried_total", {"reason": reason})


async def test_a_genuine_server_gets_only_commands_that_it_knows() -> None:
    """Any other word would end it, and a text with ` ||| ` would be a pair of sentences."""
    async with ScriptedWorker() as server, pool(server) as encoder:
        vectors = await encode(encoder, ["草", "aqua ||| 阿夸"])

        assert server.commands == {wire.SHOW_CONFIG}
        assert server.batches == [["草", "aqua | | | 阿 夸"]]
        assert vectors.tolist() == [ScriptedWorker.vector(text) for text in server.batches[0]]
        assert (encoder.model.name, encoder.model.dim, encoder.model.max_seq_len) == ("some", 2, 25)
        assert (encoder.model.pooling_layer, encoder.model.pooling_strategy) == ((-2,), "REDUCE_MEAN")


async def test_the_worker_with_the_fewest_pending_tokens_is_next() -> None:
    async with ScriptedWorker() as first, ScriptedWorker() as second, pool(first, second) as encoder:
        for worker in (first, second):
            worker.gate.clear()
        long = asyncio.create_task(encode(encoder, ["草" * 20]))
        await until(lambda: len(first.batches) + len(second.batches) == 1)
        busy, other = (first, second) if first.batches else (second, first)
        short = [asyncio.create_task(encode(encoder, [text])) for text in "好死来"]
        await until(lambda: len(other.batches) == 3)
        for worker in (first, second):
            worker.gate.set()
        await asyncio.gather(long, *short)

        assert len(busy.batches) == 1
        assert encoder.concurrency == 4  # a call that is computed and one that waits, of each


def too_few(texts: list[str]) -> list[bytes]:
    return wire.write_vectors(b"", b"", np.zeros((len(texts) - 1, 2), np.float32))[1:3]


def too_short(texts: list[str]) -> list[bytes]:
    return wire.write_vectors(b"", b"", np.zeros((len(texts), 1), np.float32))[1:3]


def an_error(texts: list[str]) -> list[bytes]:
    return wire.write_error(b"", b"", "it is broken", "internal")[1:3]


def nonsense(texts: list[str]) -> list[bytes]:
    return [b"nonsense", b""]


def a_description(texts: list[str]) -> list[bytes]:
    return [b"{}"]


@pytest.mark.parametrize(
    ("reply", "complaint"),
    [
        (too_few, "sent 3 texts, got 2 vectors back"),
        (too_short, "expected 2 numbers per text"),
        (an_error, "it is broken"),
        (nonsense, "invalid answer to request"),
        (a_description, "invalid answer to texts; expected vectors"),
    ],
)
async def test_an_invalid_answer_is_a_failure(reply: Callable[[list[str]], list[bytes]], complaint: str) -> None:
    """Another worker gets the batch; without one, the caller gets an error. The worker stays in use."""
    metrics = Metrics()
    async with ScriptedWorker() as wrong, ScriptedWorker() as right:
        wrong.reply = reply
        async with pool(wrong) as encoder:
            with pytest.raises(EncoderFailure, match=complaint):
                await encode(encoder, ["草", "好", "死"])
            wrong.reply = wrong.vectors
            assert (await encode(encoder, ["草"])).tolist() == [ScriptedWorker.vector("草")]
            wrong.reply = reply
        async with pool(wrong, right, metrics=metrics) as encoder:
            for _ in range(2):
                vectors = await encode(encoder, ["草", "好", "死"])
                assert vectors.tolist() == [ScriptedWorker.vector(text) for text in "草好死"]

    assert retried(metrics, "failed") == 1  # a worker that failed is avoided for a while


async def test_a_batch_is_given_up_after_two_failures() -> None:
    async with ScriptedWorker() as first, ScriptedWorker() as second, ScriptedWorker() as third:
        for worker in (first, second, third):
            worker.reply = an_error
        async with pool(first, second, third) as encoder:
            with pytest.raises(EncoderFailure):
                await encode(encoder, ["草"])

        assert len(first.batches) + len(second.batches) + len(third.batches) == 2


async def test_an_idle_worker_helps_a_slow_one() -> None:
    """The first answer counts, and a late answer is not mistaken for another batch's."""
    metrics = Metrics()
    async with ScriptedWorker() as slow, pool(slow, metrics=metrics, slow_s=0.1) as encoder:
        slow.gate.clear()
        waiting = asyncio.create_task(encode(encoder, ["草"]))
        await asyncio.sleep(0.3)
        assert not waiting.done()  # there is nobody else
        slow.gate.set()
        assert (await waiting).tolist() == [ScriptedWorker.vector("草")]
    async with (
        ScriptedWorker() as slow,
        ScriptedWorker() as idle,
        pool(slow, idle, metrics=metrics, slow_s=0.1) as encoder,
    ):
        slow.gate.clear()
        for text in "草好死":
            assert (await encode(encoder, [text])).tolist() == [ScriptedWorker.vector(text)]
        slow.gate.set()
        idle.gate.clear()
        assert (await encode(encoder, ["来"])).tolist() == [ScriptedWorker.vector("来")]

    assert retried(metrics, "slow") == 2


async def test_a_missing_answer_is_a_failure() -> None:
    """A genuine server does not answer requests that failed."""
    async with ScriptedWorker() as server, pool(server, slow_s=0.05, timeout_s=0.2) as encoder:
        server.reply = lambda texts: None
        with pytest.raises(EncoderFailure, match="no worker answered within 0.2 s"):
            await encode(encoder, ["草"])
        assert encoder.workers[0]["owed_tokens"] == 0


async def test_texts_of_a_former_model_are_refused() -> None:
    """The embedder then uses the current model; without any worker the error is another one."""
    async with (
        ScriptedWorker() as stays,
        ScriptedWorker(model_dir="/models/other") as goes,
        pool(goes, stays) as encoder,
    ):
        of_both = {worker.model.fingerprint: worker.model for worker in encoder._workers.values()}
        (gone,) = of_both.keys() - {read_fingerprint(stays.config)}
        texts = of_both[gone].reader.prepare_normalized(["草"])
        await encoder.encode(texts)
        assert (len(goes.batches), len(stays.batches)) == (1, 0)
        await goes.__aexit__()
        await until(lambda: ready(encoder) == 1)
        with pytest.raises(ModelGone):
            await encoder.encode(texts)
        await stays.__aexit__()
        await until(lambda: ready(encoder) == 0)
        with pytest.raises(EncoderUnavailable) as refused:
            await encoder.encode(texts)
        assert not isinstance(refused.value, ModelGone) and encoder.obstacle


async def test_a_worker_without_pooling_is_not_used() -> None:
    async with ScriptedWorker(pooling_strategy=0) as worker:
        encoder = await RemoteEncoder.open(worker.url, Metrics())
        with pytest.raises(EncoderUnavailable):
            _ = encoder.model
        assert encoder.obstacle and "invalid pooling_strategy: NONE" in encoder.obstacle
        await encoder.aclose()


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    """The late answer is ignored, nothing is pending, and the connection can be closed."""
    with zmq.asyncio.Context() as context:
        async with (
            ScriptedWorker() as worker,
            WorkerConnection(context, "127.0.0.1", worker.port, worker.port_out, print) as link,
        ):
            worker.gate.clear()
            left = asyncio.create_task(link.encode(["草"]))
            stays = asyncio.create_task(link.encode(["好"]))
            await until(lambda: len(worker.batches) == 2)
            left.cancel()
            await asyncio.wait([left])
            worker.gate.set()
            assert (await stays).tolist() == [ScriptedWorker.vector("好")]
            link.retire("it is not needed")
            assert link.ended.done()
            with pytest.raises(WorkerLost, match="it is not needed"):
                await link.encode(["草"])


async def test_a_connection_that_is_cancelled_while_it_closes_leaves_no_socket_open() -> None:
    """Or a gateway that stops just when it loses a worker would never end."""
    context = zmq.asyncio.Context()
    try:
        async with ScriptedWorker() as worker:
            link = WorkerConnection(context, "127.0.0.1", worker.port, worker.port_out, print)
            await link.__aenter__()
            closing = asyncio.create_task(link.__aexit__())
            await asyncio.sleep(0)  # now it waits for its tasks
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing

            assert all(socket.closed for socket in link._sockets)
    finally:
        context.destroy(linger=0)


async def test_a_worker_that_is_shutting_down_may_still_answer() -> None:
    """It gets nothing new, and its pending answers are awaited."""
    async with ScriptedWorker() as ends, pool(ends) as encoder:
        ends.gate.clear()
        waiting = asyncio.create_task(encode(encoder, ["草"]))
        await until(lambda: len(ends.batches) == 1)
        ends.tasks[0].cancel()
        ends.requests.close(linger=0)
        await until(lambda: ready(encoder) == 0)
        with pytest.raises(EncoderUnavailable):
            await encode(encoder, ["好"])
        ends.gate.set()

        assert (await waiting).tolist() == [ScriptedWorker.vector("草")]


async def test_changes_of_a_dns_name_are_followed() -> None:
    """Workers at new addresses join; those at former ones get nothing new and finish their batches."""
    addresses = ["127.0.0.2"]

    resolved: list[str] = []

    async def resolve(name: str) -> list[str]:
        resolved.append(name)
        if name == "workers" and not addresses:
            raise OSError(-2, "Name or service not known")
        return list(addresses) if name == "workers" else [name]

    async with ScriptedWorker("127.0.0.2") as old, ScriptedWorker("127.0.0.3", (old.port, old.port_out)) as new:
        url = f"bert+dns://workers:{old.port}:{old.port_out}"
        encoder = await RemoteEncoder.open(url, Metrics(), resolve, resolve_every_s=0.02)
        assert [worker["url"] for worker in encoder.workers] == [old.url]
        old.gate.clear()
        waiting = asyncio.create_task(encode(encoder, ["草"]))
        await until(lambda: len(old.batches) == 1)

        addresses[:] = ["127.0.0.3"]
        await until(
            lambda: {worker["url"]: worker["ready"] for worker in encoder.workers} == {new.url: True, old.url: False}
        )
        await encode(encoder, ["好"])
        assert (len(old.batches), new.batches) == (1, [["好"]])
        old.gate.set()
        assert (await waiting).tolist() == [ScriptedWorker.vector("草")]
        await until(lambda: [worker["url"] for worker in encoder.workers] == [new.url])

        addresses.clear()  # nobody knows the name any more, which does not mean that nobody is there
        resolved.clear()
        await until(lambda: resolved.count("workers") >= 2)
        assert (await encode(encoder, ["死"])).tolist() == [ScriptedWorker.vector("死")]
        addresses[:] = ["127.0.0.2", "127.0.0.3"]
        await until(lambda: ready(encoder) == 2)
        await encoder.aclose()


async def test_an_unknown_dns_name_is_reported() -> None:
    async def resolve(name: str) -> list[str]:
        raise OSError(-2, "Name or service not known")

    encoder = await RemoteEncoder.open("bert+dns://workers", Metrics(), resolve)
    assert encoder.obstacle == "no worker is ready (cannot resolve workers: Name or service not known)"
    await encoder.aclose()


async def test_an_invalid_dns_name_is_reported() -> None:
    with pytest.raises(OSError, match="invalid host name"):
        await resolve("workers..example")


@pytest.mark.parametrize("url", ["bert://", "bert://a,", "bert://a:b", "bert+dns://", "bert+dns://a,b"])
async def test_a_url_without_workers_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        await open_encoder(url, EncoderSettings(), Metrics())


async def test_model_options_are_refused_for_remote_workers() -> None:
    with pytest.raises(ConfigurationError, match="are set by the workers"):
        await open_encoder("bert://127.0.0.1", EncoderSettings((-1,)), Metrics())


def test_the_fingerprint_of_genuine_servers_depends_on_vector_options() -> None:
    same = GENUINE | {"port": 7000, "server_start_time": "now", "num_worker": 4, "python_version": "3.5"}
    others = [
        GENUINE | {name: value}
        for name, value in (
            *(("model_dir", "/models/other"), ("tuned_model_dir", "/models/tuned"), ("ckpt_name", "model.ckpt-1")),
            *(("pooling_layer", [-1]), ("pooling_strategy", 1), ("max_seq_len", 40), ("mask_cls_sep", True)),
            *(("do_lower_case", False),),
        )
    ]

    assert read_fingerprint(same) == read_fingerprint(GENUINE)
    assert len({read_fingerprint(config) for config in [GENUINE, *others]}) == len(others) + 1


def test_lengths_are_estimated_without_a_vocabulary() -> None:
    """The estimate is one token per Chinese character or mark, and one per three characters of a word."""
    inputs = ApproximateInputs(8, lowercase=True, fingerprint="f")
    model = Model("some", "f", 2, 8, (-2,), "REDUCE_MEAN", inputs)
    texts = [inputs.normalize(text) for text in ("草", "阿夸!!", "AWSL 好", "哈" * 6, "哈" * 7)]

    assert [prepared.num_tokens for prepared in inputs.prepare_normalized(texts)] == [3, 6, 5, 8, 8]
    assert [model.truncates(text) for text in texts] == [False, False, False, False, True]
    assert inputs.prepare_normalized(["😂"]) == [Prepared("😂", [0] * 3, False, True, fingerprint="f")]
