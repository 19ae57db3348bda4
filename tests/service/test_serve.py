"""`danmaku serve` as people run it: a process, a port, signals, and the bundled model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from processes import serving

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


def sample(client: httpx.Client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def test_the_bundled_model_gives_the_same_vectors_always() -> None:
    """Together or one by one, after a restart, and from the cache; repeats are encoded once."""
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


def test_a_request_in_progress_is_answered_on_sigterm() -> None:
    """Then the process ends by itself, with status 0."""
    answers: list[httpx.Response] = []
    with serving() as (client, process):
        texts = [f"{word} {number}" for number in range(100) for word in DANMAKU]
        asking = threading.Thread(target=lambda: answers.append(client.post("/embed", json=texts)))
        asking.start()
        deadline = time.monotonic() + 30
        with httpx.Client(base_url=client.base_url) as watcher:
            while sample(watcher, "danmaku_in_flight_texts") == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        asking.join(60)

        assert [answer.status_code for answer in answers] == [200]
        assert len(answers[0].json()["embeddings"]) == len(texts)
        assert process.wait(60) == 0


def test_an_overloaded_gateway_refuses_and_recovers() -> None:
    """429 with Retry-After to whom it has no room for, and the work it took is done."""
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


def test_the_service_needs_no_tensorflow(tmp_path: Path) -> None:
    """Nor anything else of training: it starts where importing them fails."""
    for name in ("tensorflow", "training", "sklearn", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not for serving')\n", encoding="utf-8")
    code = (
        "import sys; from service.cli import main; import service.app, service.encoders.onnx; print(len(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


def test_check_tells_whether_a_gateway_is_ready() -> None:
    """By its exit status, with the reason on a line."""
    with serving() as (client, _):
        check = [sys.executable, "-m", "service", "check", str(client.base_url)]
        ready = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=60)
    gone = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert (ready.returncode, ready.stdout) == (0, "ready\n")
    assert gone.returncode == 1
    assert gone.stderr.startswith("danmaku check: ") and "is not ready" in gone.stderr


def test_a_model_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "serve", "--encoder", f"onnx://{tmp_path}/none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr == (
        f"danmaku serve: {tmp_path}/none is not a directory; "
        "expected bert_config.json, vocab.txt and a checkpoint in it\n"
    )


def test_a_port_in_use_is_said() -> None:
    """And no second gateway lingers."""
    with serving() as (client, _):
        port = str(client.base_url.port)
        command = [sys.executable, "-m", "service", "serve", "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode != 0
    assert "address already in use" in done.stderr
