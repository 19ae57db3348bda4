"""The worker on its sockets: its answers, its robustness, and its shutdown."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import zmq
from peers import client_status, peer
from processes import ROOT, RunningWorker, free_ports, working

from service import wire
from service.tokenizer import read_vocab
from service.worker.probe import probe

LENGTH = ("-max_seq_len", "12")
MALFORMED = int(os.environ.get("MALFORMED", "10000"))


@pytest.fixture(scope="module")
def worker(tiny_model: Path) -> Iterator[RunningWorker]:
    with working(tiny_model, *LENGTH) as worker:
        yield worker


def test_an_empty_text_gets_the_vector_of_no_tokens(worker: RunningWorker) -> None:
    """The genuine server loses such a text, and with it the whole request."""
    with peer(worker) as it:
        vectors = it.encode(["草", "", " \t", "awsl"])

    np.testing.assert_array_equal(vectors[1], vectors[2])
    assert np.isfinite(vectors).all() and not np.allclose(vectors[0], vectors[1])


def test_an_empty_list_gets_an_empty_answer(worker: RunningWorker) -> None:
    with peer(worker) as it:
        assert it.encode([]).shape == (0, 16)


def test_bars_in_a_text_are_characters(worker: RunningWorker, tiny_model: Path) -> None:
    """The genuine server makes a pair of sentences of them; ours does so only if configured."""
    text = ["草 ||| awsl", "草 awsl"]
    with peer(worker) as it:
        one = it.encode(text)
    with working(tiny_model, *LENGTH, "-sentence_pairs", "-show_tokens_to_client") as pairing, peer(pairing) as it:
        it.requests.send_multipart(wire.write_encode(it.identity, 1, text))
        pair = it.receive()

    assert isinstance(pair, wire.VectorsReply)
    assert pair.tokens == [["[CLS]", "草", "[SEP]", "awsl", "[SEP]"], ["[CLS]", "草", "awsl", "[SEP]"]]
    assert not np.allclose(one[0], pair.array[0])
    np.testing.assert_allclose(one[1], pair.array[1], atol=1e-5)


def test_no_client_receives_the_answers_of_another(worker: RunningWorker) -> None:
    """With the genuine server, a client receives the answers of every identity that begins with its own."""
    with peer(worker, b"user1") as short, peer(worker, b"eve", subscribe=b"") as eve, peer(worker, b"user10") as it:
        it.encode(["草"])

        assert short.receive(timeout_s=0.3) is None
        assert eve.receive(timeout_s=0.1) is None
        assert short.encode(["草"]).shape == (1, 16)


def test_an_answer_waits_for_its_subscriber(worker: RunningWorker) -> None:
    """A client may send a request before its subscription has arrived."""
    context = zmq.Context()
    requests, answers = context.socket(zmq.PUSH), context.socket(zmq.SUB)
    try:
        requests.connect(f"tcp://127.0.0.1:{worker.port}")
        answered = client_status(worker)["statistic"]["num_data_request"]
        requests.send_multipart(wire.write_encode(b"late", 1, ["草"]))
        while client_status(worker)["statistic"]["num_data_request"] == answered:
            time.sleep(0.01)
        answers.subscribe(b"late")
        answers.connect(f"tcp://127.0.0.1:{worker.port_out}")

        assert answers.poll(60_000)
    finally:
        context.destroy(linger=0)


def test_no_subscription_is_lost_while_other_clients_leave(worker: RunningWorker) -> None:
    def come_and_go(_: int) -> None:
        for _ in range(50):
            probe(worker.url, timeout_s=20)

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(come_and_go, range(8)))


def test_messages_that_are_no_subscriptions_do_not_divert_answers(worker: RunningWorker) -> None:
    """ZMQ then takes the sender of one subscription for that of another."""
    stolen: list[bytes] = []
    is_over = threading.Event()

    def steal() -> None:
        with zmq.Context() as context, context.socket(zmq.XSUB) as thief:
            thief.linger = 0
            thief.connect(f"tcp://127.0.0.1:{worker.port_out}")
            for number in itertools.count():
                if is_over.wait(0.0005):
                    break
                thief.send(b"no subscription")
                thief.send(b"\1thief %d" % number)
                while thief.poll(0):
                    stolen.append(thief.recv_multipart()[0])

    def ask(number: int) -> None:
        for attempt in range(20):
            with peer(worker, b"victim %d %d" % (number, attempt)) as it:
                it.requests.send_multipart(wire.write_command(it.identity, 1, wire.SHOW_STATUS))
                it.receive(timeout_s=0.1)

    with ThreadPoolExecutor(11) as threads:
        thieves = [threads.submit(steal) for _ in range(3)]
        list(threads.map(ask, range(8)))
        is_over.set()
    for thief in thieves:
        thief.result()

    assert stolen == []
    for number in itertools.count():  # the first may still be among what the thieves have sent
        with peer(worker, b"after %d" % number) as it:
            it.requests.send_multipart(wire.write_command(it.identity, 1, wire.SHOW_STATUS))
            if it.receive(timeout_s=1):
                break


@pytest.mark.parametrize(
    ("frames", "error"),
    [
        ((b"not JSON", b"1", b"1"), "not JSON"),
        ((b'["a"]', b"1", b"2"), "says 2 texts"),
        ((b'["a", 1]', b"1", b"2"), "list of strings"),
        ((b'["a"]', b"1", b"many"), "count"),
    ],
)
def test_a_malformed_request_is_answered_with_an_error(
    worker: RunningWorker, frames: tuple[bytes, ...], error: str
) -> None:
    with peer(worker) as it:
        it.encode(["草"])  # so that its subscription is there: such an answer does not wait for it
        it.send(it.identity, *frames)
        reply = it.receive()

    assert isinstance(reply, wire.ErrorReply) and error in reply.error and reply.error_type == "malformed"


def test_a_request_that_does_not_fit_into_memory_is_refused(tiny_model: Path) -> None:
    """A million texts without pooling would be 768 MB of vectors."""
    body = b"[" + b",".join([b'""'] * 1_000_000) + b"]"
    with working(tiny_model, *LENGTH, "-pooling_strategy", "NONE") as worker, peer(worker) as it:
        it.send(it.identity, body, b"1", b"1000000")
        reply = it.receive()

    assert isinstance(reply, wire.ErrorReply) and reply.error_type == "too_large"


def test_a_client_cannot_end_the_worker(worker: RunningWorker) -> None:
    with peer(worker) as it:
        it.send(b"0", wire.TERMINATION, b"0", b"0")

        assert it.encode(["草"]).shape == (1, 16)


def test_a_client_can_end_the_worker_if_that_is_allowed(tiny_model: Path) -> None:
    with working(tiny_model, *LENGTH, "-allow_terminate") as worker, peer(worker) as it:
        it.send(b"0", wire.TERMINATION, b"0", b"0")

        assert worker.process.wait(timeout=60) == 0


def test_shutdown_waits_for_requests_in_progress(tiny_model: Path) -> None:
    """After SIGTERM, no more requests are accepted, and accepted ones are answered."""
    with working(tiny_model, *LENGTH) as worker, worker.client(timeout=60_000) as client:
        client.encode(["草 awsl"] * 10 + [f"草{index}" for index in range(20_000)], blocking=False)
        while not client_status(worker)["in_progress"]:
            time.sleep(0.01)
        worker.process.send_signal(signal.SIGTERM)

        (vectors,) = client.fetch_all()

        assert vectors.shape == (20_010, 16)
        assert worker.process.wait(timeout=60) == 0


def test_a_short_request_does_not_wait_behind_a_long_list(tiny_model: Path) -> None:
    with working(tiny_model, *LENGTH) as worker, worker.client() as bulk, peer(worker) as it:
        bulk.encode([f"草{index}" for index in range(20_000)], blocking=False)
        while not client_status(worker)["in_progress"]:
            time.sleep(0.01)

        it.encode(["awsl"])

        assert client_status(worker)["in_progress"] == 1
        assert bulk.fetch_all(concat=True).shape == (20_000, 16)


def garbage(rng: random.Random) -> list[bytes]:
    """Returns frames that are not a request, or nearly one."""
    good = [b"fuzz", b'["a"]', b"%d" % rng.randrange(10**6), b"1"]
    kind = rng.randrange(6)
    if kind == 0:
        return [rng.randbytes(rng.randrange(20)) for _ in range(rng.randrange(1, 8))]
    if kind == 1:
        good[rng.randrange(4)] = rng.randbytes(rng.randrange(20))
    elif kind == 2:
        del good[rng.randrange(4)]
    elif kind == 3:
        good[1] = rng.choice(
            [b"[", b"{}", b"null", b"[null]", b'[["a"], "b"]', b"[1e999]", b'["\\ud800"]', b"[" * 5000]
        )
    elif kind == 4:
        good[rng.choice([2, 3])] = rng.choice([b"", b"-1", b"9" * 30, b"0x1", b" 1", b"1.0"])
    else:
        good[0] = rng.choice([b"", b"\0", b"#", b"@", b"a" * 300, b"fuzz\0", rng.randbytes(8)])
    return good


def test_malformed_messages_neither_end_the_worker_nor_leak(tiny_model: Path) -> None:
    """Other clients are served meanwhile. MALFORMED=100000 makes the test thorough."""
    rng = random.Random(1)
    with working(tiny_model, *LENGTH) as worker, peer(worker, b"fuzz") as fuzz, peer(worker, b"user") as user:
        process = psutil.Process(worker.process.pid)

        def bombard(count: int) -> int:
            """Sends malformed messages; returns the bytes of resident memory afterwards."""
            for index in range(count):
                fuzz.requests.send_multipart(garbage(rng))
                if index % 500 == 0:
                    user.encode(["草", "awsl"], request_id=index)
            while client_status(worker)["in_progress"]:
                time.sleep(0.05)
            return process.memory_info().rss

        warm = bombard(MALFORMED // 2)
        after = bombard(MALFORMED // 2)

        assert user.encode(["草"]).shape == (1, 16)
        assert client_status(worker)["statistic"]["num_refused"]["ignored"] > MALFORMED // 5  # type: ignore[index]
        print(f"{warm / 2**20:.0f} MiB, then {after / 2**20:.0f}")
        assert after < warm + 15 * 2**20


def test_peers_that_do_not_speak_zmq_are_ignored(worker: RunningWorker) -> None:
    for port in (worker.port, worker.port_out):
        with socket.create_connection(("127.0.0.1", port)) as stray:
            stray.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 1000)

    with peer(worker) as it:
        assert it.encode(["草"]).shape == (1, 16)


def test_without_pooling_a_text_has_a_vector_for_each_token(tiny_model: Path) -> None:
    """They are padded with zeros to max_seq_len, to the longest text without one, or to all positions if configured."""
    texts = ["草", "awsl 草 草"]
    shapes = {}
    for name, flags in {
        "length": LENGTH,
        "longest": ("-max_seq_len", "NONE"),
        "all": ("-max_seq_len", "NONE", "-fixed_embed_length"),
    }.items():
        with working(tiny_model, "-pooling_strategy", "NONE", *flags) as worker, peer(worker) as it:
            array = it.encode(texts)
            shapes[name] = array.shape
            assert not array[0, 3:].any() and array[0, :3].any(axis=1).all()

    assert shapes == {"length": (2, 12, 16), "longest": (2, 5, 16), "all": (2, 16, 16)}


def test_the_http_endpoints_are_the_genuine_ones(worker: RunningWorker) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{worker.http_port}") as http, peer(worker) as it:
        vectors = it.encode(["草", "awsl"])
        answer = http.post("/encode", json={"id": 123, "texts": ["草", "awsl"], "is_tokenized": False})
        tokens = http.post("/encode", json={"id": "x", "texts": [["草"], ["awsl"]], "is_tokenized": True})
        status = http.get("/status/server").json()
        preflight = http.options("/encode", headers={"Origin": "http://a", "Access-Control-Request-Method": "POST"})

    assert answer.status_code == 200 and answer.json()["id"] == 123 and answer.json()["status"] == 200
    np.testing.assert_allclose(answer.json()["result"], vectors, atol=1e-6)
    np.testing.assert_allclose(tokens.json()["result"], vectors, atol=1e-6)
    assert status["server_version"] == "1.10.0" and "statistic" in status
    assert "Access-Control-Allow-Origin" not in preflight.headers  # no web page may read it unless -cors says so


def test_a_worker_reports_its_vocabulary(worker: RunningWorker, tiny_model: Path) -> None:
    with peer(worker) as it:
        it.requests.send_multipart(wire.write_command(it.identity, 1, wire.SHOW_VOCAB))
        told = it.receive()

    assert isinstance(told, wire.JsonReply)
    rules = {"lowercase": True, "strip_accents": None, "split_chinese": True}
    assert told.values == {"vocab": read_vocab(tiny_model / "vocab.txt"), "rules": rules, "max_seq_len": 12}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"id": 1}', b'{"texts": ["a"]}', b'{"id": 1, "texts": []}', b'{"id": 1, "texts": [1]}']
    + [b'{"id": 1, "texts": ["a"], "is_tokenized": true}', b"[" * 100_000],
)
def test_invalid_http_requests_are_a_400_with_the_reason(worker: RunningWorker, body: bytes) -> None:
    answer = httpx.post(f"http://127.0.0.1:{worker.http_port}/encode", content=body)

    assert answer.status_code == 400
    assert answer.json().keys() == {"description", "type", "status"} and answer.json()["description"]


def check(url: str, timeout_s: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "check", url, "--timeout-s", str(timeout_s)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_check_succeeds_for_a_worker_that_answers(worker: RunningWorker) -> None:
    done = check(worker.url, 60)

    assert (done.returncode, done.stdout) == (0, "ready: tiny, bert-serving-server 1.10.0\n")


def test_check_fails_with_one_line_for_a_worker_that_does_not() -> None:
    port, port_out = free_ports(2)

    done = check(f"bert://127.0.0.1:{port}:{port_out}", 1)

    assert done.returncode == 1 and "no answer within 1 s" in done.stderr and done.stderr.count("\n") == 1
