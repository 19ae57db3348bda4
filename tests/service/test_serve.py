"""`danmaku serve` as users run it: a process, a port, signals, and the bundled model."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from processes import running_redis, serving

ROOT = Path(__file__).parents[2]
DANMAKU = [
    *["草", "awsl", "哈哈哈哈哈", "阿夸", "aqua", "晚安", "88888", "233333", "谁？", "待机", "来了来了", "kksk"],
    *[
        "AWSL",
        "好听！",
        "我好了",
        "(゜-゜)つロ 干杯~",
        "这是什么歌，好好听",
        "下次一定",
        "かわいい",
        "a q u a",
        "草草草",
    ],
]


def embed(client: httpx.Client, texts: list[str]) -> np.ndarray:
    answer = client.post("/embed", json=texts)
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"], np.float32)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def sample(client: httpx.Client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def test_the_bundled_model_always_gives_the_same_vectors() -> None:
    """Batches, restarts and the cache make no difference; repeats are encoded once."""
    with serving("--cache-bytes", "0") as (client, _):
        one_by_one = np.concatenate([embed(client, [text]) for text in DANMAKU])
    with serving() as (client, _):
        together = embed(client, DANMAKU * 3)
        encoded = sample(client, "danmaku_batch_texts_sum")
        again = embed(client, DANMAKU)
        assert sample(client, "danmaku_batch_texts_sum") == encoded

    assert np.abs(together[: len(DANMAKU)] - one_by_one).max() < 1e-5
    assert np.array_equal(together[: len(DANMAKU)], together[-len(DANMAKU) :])
    assert np.array_equal(again, together[: len(DANMAKU)])
    assert encoded == len(DANMAKU) - 1  # AWSL and awsl are one text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_progress_is_answered_before_shutdown(number: signal.Signals) -> None:
    """Then the process ends by itself, with status 0."""
    answers: list[httpx.Response] = []
    with serving("--threads", "1") as (client, process), httpx.Client(base_url=client.base_url) as watcher:
        texts = [f"{word} {number}" for number in range(200) for word in DANMAKU]
        asking = threading.Thread(target=lambda: answers.append(client.post("/embed", json=texts)))
        asking.start()
        wait_for(lambda: sample(watcher, "danmaku_in_flight_texts") > 0)
        process.send_signal(number)
        asking.join(60)

        assert [answer.status_code for answer in answers] == [200]
        assert len(answers[0].json()["embeddings"]) == len(texts)
        assert process.wait(60) == 0


def test_texts_of_a_disconnected_client_are_dropped() -> None:
    """They leave the queue, and the request counts as nobody's failure."""
    with serving("--threads", "1") as (client, _), httpx.Client(base_url=client.base_url) as watcher:
        texts = [f"{word} {number}" for number in range(400) for word in DANMAKU]
        with pytest.raises(httpx.ReadTimeout):
            watcher.post("/embed", json=texts, timeout=0.3)
        wait_for(lambda: 'danmaku_requests_total{outcome="gone",route="/embed"} 1.0' in client.get("/metrics").text)
        wait_for(lambda: sample(client, "danmaku_queue_texts") == 0)

        assert sample(client, "danmaku_batch_texts_sum") < len(texts) / 2
        counted = client.get("/metrics").text
        assert 'danmaku_requests_total{outcome="failed",route="/embed"} 0.0' in counted


def test_an_aborted_upload_is_not_a_failure() -> None:
    """The length may be announced or not; nothing is logged."""
    with serving() as (client, process):
        for head in (b"Content-Length: 1000", b"Transfer-Encoding: chunked"):
            with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
                connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\n" + head + b'\r\n\r\n5\r\n["aaa\r\n')
        wait_for(lambda: 'outcome="gone",route="/embed"} 2.0' in client.get("/metrics").text)
        process.terminate()

        assert "Traceback" not in process.communicate(timeout=60)[1]


def test_the_default_limits() -> None:
    """A gateway with default settings handles a list of 100,000 and a text of 10,000 characters."""
    with serving() as (client, _):
        too_many = client.post("/embed", json=["草"] * 100_000)
        long = client.post("/embed", json=["哈" * 10_000, "草"]).json()

        assert (too_many.status_code, too_many.json()["error_type"]) == (413, "too_large")
        assert long["truncated"] == [0]
        assert [len(vector) for vector in long["embeddings"]] == [256, 256]
        assert embed(client, ["草"]).shape == (1, 256)


def test_every_pooling_strategy_serves_single_texts() -> None:
    with serving("--pooling-strategy", "SEP_TOKEN", "--pooling-layer", "-1", "-2") as (client, _):
        assert embed(client, ["草"]).shape == (1, 512)


def test_an_overloaded_gateway_refuses_and_recovers() -> None:
    """Requests without room get 429 with Retry-After, and accepted ones are answered."""
    with serving("--max-queue-texts", "600", "--max-request-texts", "600", "--threads", "1") as (client, _):
        answers: list[httpx.Response] = []

        def ask(part: int) -> None:
            texts = [f"{word} {part} {number}" for number in range(28) for word in DANMAKU]
            answers.append(httpx.post(client.base_url.join("/embed"), json=texts, timeout=60))

        threads = [threading.Thread(target=ask, args=[part]) for part in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused = [answer for answer in answers if answer.status_code == 429]

        assert sorted({answer.status_code for answer in answers}) == [200, 429]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert all(answer.json()["error_type"] == "overloaded" for answer in refused)
        assert embed(client, ["草"]).shape == (1, 256)


def test_the_service_needs_nothing_of_training(tmp_path: Path) -> None:
    """It opens a model and encodes where TensorFlow and the like cannot be imported."""
    for name in ("tensorflow", "training", "sklearn", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not for serving')\n", encoding="utf-8")
    program = f"""
import asyncio, sys
import service.app, service.cli
from service.encoders.open import EncoderSettings, open_encoder
from service.metrics import Metrics

async def encode():
    encoder = await open_encoder("onnx://{ROOT}/models/danmaku-bert-mini", EncoderSettings(), Metrics())
    return await encoder.encode(encoder.model.reader.prepare_normalized(["草"]))

print(asyncio.run(encode()).shape, "training" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("(1, 256) False\n", 0), done.stderr


def test_check_reports_readiness() -> None:
    """Its exit status and a line with the reason say so."""
    with serving() as (client, _):
        check = [sys.executable, "-m", "service", "check", str(client.base_url)]
        ready = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=60)
    gone = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (ready.returncode, ready.stdout) == (0, "ready\n")
    assert gone.returncode == 1
    assert gone.stderr.startswith("danmaku check: ") and "is not ready" in gone.stderr


def test_a_model_that_cannot_be_opened_is_a_one_line_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "serve", "--encoder", f"onnx://{tmp_path}/none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr == (
        f"danmaku serve: {tmp_path}/none is not a directory; "
        "expected bert_config.json, vocab.txt and a checkpoint in it\n"
    )


def test_a_port_in_use_is_reported() -> None:
    """No second gateway remains."""
    with serving() as (client, _):
        port = str(client.base_url.port)
        command = [sys.executable, "-m", "service", "serve", "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode != 0
    assert "address already in use" in done.stderr


def test_vectors_in_redis_outlive_the_gateway() -> None:
    """A gateway also keeps serving when Redis is gone."""
    with running_redis() as redis:
        with serving("--cache", redis.url) as (client, _):
            first = embed(client, DANMAKU)
        with serving("--cache", redis.url) as (client, _):
            again = np.concatenate([embed(client, [text]) for text in DANMAKU])
            found = sample(client, 'danmaku_cache_lookups_total{result="hit",tier="redis"}')
            redis.process.kill()
            assert np.isfinite(embed(client, ["又来了"])).all()

    np.testing.assert_allclose(again, first, atol=1e-6)
    assert found > len(DANMAKU) / 2  # on a busy machine, some look-ups may take longer than they are given
