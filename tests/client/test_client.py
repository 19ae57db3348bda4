"""The client: matrices in the order of the texts, retries until its deadline, and errors that say what to do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from danmaku_client import AsyncClient, Client, CollectionItem, GatewayError
from processes import free_ports, serving


@pytest.fixture(scope="module")
def gateway(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A gateway that accepts few texts and small bodies."""
    flags = ("--max-request-texts", "7", "--max-body-bytes", "300")
    collections = f"sqlite://{tmp_path_factory.mktemp('collections')}"
    with serving(*flags, "--collections", collections, model=f"onnx://{tiny_model}") as (http, _):
        yield http


def url_of(http: httpx.Client) -> str:
    return str(http.base_url).rstrip("/")


class Scripted(ThreadingHTTPServer):
    """A gateway that follows `script`, one entry per request: (status, headers, body), or None to break the connection.
    It records the headers of requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], object] | None] = []
        self.asked: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.asked.append(dict(self.headers))
                step = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if step is None:
                    self.close_connection = True
                    return
                status, headers, body = step
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


INFO = {
    **{"version": "1", "model": "m", "fingerprint": "f", "dim": 2, "max_seq_len": 8, "pooling_layer": [-2]},
    **{"pooling_strategy": "REDUCE_MEAN", "max_request_texts": 2, "max_body_bytes": 1000},
}
BUSY = (429, {"Retry-After": "1", "X-Request-ID": "r7"}, {"error": "too much is waiting", "error_type": "overloaded"})


def embedding(count: int, fingerprint: str = "f") -> tuple[int, dict[str, str], object]:
    rows = ["AACAPwAAAEA="] * count  # [1, 2]
    body = {"model": "m", "fingerprint": fingerprint, "dim": 2, "embeddings": rows, "truncated": [], "errors": []}
    return 200, {}, body


def test_a_long_list_comes_back_as_one_matrix(gateway: httpx.Client) -> None:
    """The list exceeds the gateway's limits of texts and bytes; errors name positions in the whole list."""
    texts = ["草", "awsl", " ", "晚安", "草" * 18, "好"] * 5
    with Client(url_of(gateway)) as client:
        embedded = client.embed(texts)
        info = client.info()
    one_by_one = [gateway.post("/embed", json=[text]).json()["embeddings"][0] for text in texts]

    assert embedded.vectors.dtype == np.float32 and embedded.vectors.shape == (30, 16)
    for vector, expected in zip(embedded.vectors, one_by_one, strict=True):
        assert np.isnan(vector).all() if expected is None else np.array_equal(vector, np.float32(expected))
    assert [error.index for error in embedded.errors if error.error_type == "empty_text"] == list(range(2, 30, 6))
    assert embedded.truncated == list(range(4, 30, 6))
    assert (embedded.model, embedded.fingerprint) == (info.model, info.fingerprint)
    assert (info.dim, info.max_request_texts, info.max_body_bytes) == (16, 7, 300)


def test_normalised_vectors_have_length_1(gateway: httpx.Client) -> None:
    with Client(url_of(gateway)) as client:
        vectors = client.embed(["草", "awsl"], normalize=True).vectors

    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_an_empty_list_is_an_empty_matrix(gateway: httpx.Client) -> None:
    with Client(url_of(gateway)) as client:
        assert client.embed([]).vectors.shape == (0, 16)


def test_similar_danmaku_come_best_first(gateway: httpx.Client) -> None:
    with Client(url_of(gateway)) as client:
        similar = client.similar("草", ["晚安", "草", " "], top_k=2)

    assert [match.text for match in similar.matches[0]] == ["草", "晚安"]
    assert similar.matches[0][0].score == pytest.approx(1, abs=1e-5)
    assert [(error.index, error.error_type) for error in similar.candidate_errors] == [(2, "empty_text")]
    assert similar.query_errors == []


def test_a_collection_is_filled_searched_and_emptied(gateway: httpx.Client) -> None:
    """There are more items than one request may hold; refusals name positions in the whole list."""
    items = [
        "草",
        CollectionItem("晚安", id="a/b", metadata={"room": 3}),
        CollectionItem(" "),
        CollectionItem("草", ttl_s=600),
        *["好"] * 5,
        " ",
    ]
    with Client(url_of(gateway)) as client:
        assert client.create("room").count == 0
        added = client.add("room", items)
        assert (added.added, added.replaced, added.refused) == (3, 1, 2)
        assert [(reason.index, reason.error_type) for reason in added.reasons] == [(2, "empty_text"), (9, "empty_text")]
        assert {each.name: each.count for each in client.collections()}["room"] == 3

        first, second = client.search("room", ["草", "晚安"], top_k=1).matches
        assert (first[0].text, first[0].count, second[0].id) == ("草", 2, "a/b")
        found = client.search("room", "草", filter={"room": {"in": [3, 4]}}, min_score=-1).matches[0]
        assert [(match.text, match.metadata) for match in found] == [("晚安", {"room": 3})]

        assert [client.delete("room", "a/b"), client.delete("room", "a/b")] == [True, False]
        client.add("room", [CollectionItem("晚安", metadata={"room": 3})])
        assert client.delete_where("room", {"room": 3}) == 1
        assert client.drop("room").count == 2
        with pytest.raises(GatewayError, match="the collection room does not exist") as caught:
            client.search("room", "草")
    assert caught.value.status == 404


def test_a_chat_is_observed_and_has_topics(gateway: httpx.Client) -> None:
    """In several requests; refusals name positions in the whole list."""
    lines = ["草", CollectionItem("晚安"), {"text": "草", "ttl_s": 600}, *["好"] * 5, " "]
    with Client(url_of(gateway)) as client:
        client.create("chat")
        observed = client.observe("chat", lines)
        topics = client.topics("chat")
        nothing = client.observe("chat", [])
        client.drop("chat")

    assert [line and line.text for line in observed.lines] == ["草", "晚安", "草", *["好"] * 5, None]
    assert [(error.index, error.error_type) for error in observed.errors] == [(8, "empty_text")]
    assert (first := observed.lines[0]) and first.nearest is None
    assert (last := observed.lines[7]) and last.nearest and (last.nearest.text, last.nearest.relation) == ("好", "same")
    assert (topics.window_s, topics.lines) == (60, 8)
    assert [(topic.id, topic.count, topic.said) for topic in topics.topics][0] == (last.topic_id, 5, [("好", 5)])
    assert (nothing.fingerprint, nothing.lines) == (observed.fingerprint, [])


async def test_several_tasks_fill_a_collection(gateway: httpx.Client) -> None:
    async with AsyncClient(url_of(gateway)) as client:
        await client.create("tasks")
        await asyncio.gather(*[client.add("tasks", [CollectionItem("草", id=str(number))]) for number in range(12)])
        found = await client.search("tasks", "草", top_k=20)

        assert sorted(match.id for match in found.matches[0]) == sorted(map(str, range(12)))
        assert (await client.drop("tasks")).count == 12


def test_a_rebuild_reports_its_progress(scripted: Scripted) -> None:
    """It also reports what ended it early."""
    step, end = b'{"done": 1, "total": 2}\n', b'{"done": 2, "total": 2, "finished": true, "lost": 1, "reasons": []}\n'
    scripted.script = [(200, {}, step + end), (200, {}, step + b'{"error": "no encoder", "error_type": "x"}\n')]
    with Client(scripted.url) as client:
        steps = [(each.done, each.is_finished, each.lost) for each in client.rebuild("room")]
        assert steps == [(1, False, 0), (2, True, 1)]
        with pytest.raises(GatewayError, match="no encoder"):
            list(client.rebuild("room"))


async def test_many_tasks_share_an_async_client(gateway: httpx.Client) -> None:
    async with AsyncClient(url_of(gateway)) as client:
        answers = await asyncio.gather(*[client.embed(["草"] * number) for number in range(12)])

    assert [len(answer.vectors) for answer in answers] == list(range(12))


def test_a_client_works_without_a_with_statement(gateway: httpx.Client) -> None:
    """It connects on first use; if nobody closes it, it disconnects silently at exit."""
    client = Client(url_of(gateway))
    assert len(client.embed(["草"]).vectors) == 1
    client.close()
    client.close()
    assert len(client.embed(["草"]).vectors) == 1
    client.close()

    code = f"from danmaku_client import Client; c = Client({url_of(gateway)!r}); print(len(c.embed(['草']).vectors))"
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


async def test_a_client_works_while_an_event_loop_runs(gateway: httpx.Client) -> None:
    """This is the case in a notebook."""
    with Client(url_of(gateway)) as client:
        assert len(client.embed(["草"]).vectors) == 1


def test_an_error_says_what_is_wrong_and_where(gateway: httpx.Client) -> None:
    with Client(url_of(gateway)) as client, pytest.raises(GatewayError, match="expected at most 7") as caught:
        client.similar("草", ["草"] * 9)

    assert (caught.value.status, caught.value.error_type) == (413, "too_large")


def test_invalid_content_is_refused_before_it_is_sent(gateway: httpx.Client) -> None:
    with Client(url_of(gateway)) as client, pytest.raises(ValueError, match="invalid content"):
        client.embed(["\ud800"])


def test_a_text_is_not_a_list_of_its_characters(gateway: httpx.Client) -> None:
    with Client(url_of(gateway)) as client:
        for send in (client.embed, partial(client.similar, "草"), partial(client.add, "room")):
            with pytest.raises(TypeError, match="'awsl'; expected a list of texts"):
                send("awsl")


def test_retries_wait_as_long_as_the_gateway_says(scripted: Scripted) -> None:
    """A missing encoder and a broken connection are retried, too; each request tells the gateway how much
    time is left.
    """
    unavailable = (503, {}, {"error": "no encoder", "error_type": "encoder_unavailable"})
    scripted.script = [(200, {}, INFO), BUSY, unavailable, None, embedding(1)]
    started = time.monotonic()
    with Client(scripted.url, "secret", timeout_s=30) as client:
        vectors = client.embed(["草"]).vectors

    assert vectors.tolist() == [[1, 2]]
    assert time.monotonic() - started >= 1
    assert {asked["Authorization"] for asked in scripted.asked} == {"Bearer secret"}
    times = [int(asked["X-Timeout-Ms"]) for asked in scripted.asked]
    assert len(times) == 5 and 29_000 > times[2] > times[4] > 0


def test_a_retry_after_the_deadline_is_not_attempted(scripted: Scripted) -> None:
    status, headers, body = BUSY
    scripted.script = [(200, {}, INFO), (status, headers | {"Retry-After": "61"}, body)]
    with Client(scripted.url, timeout_s=60) as client, pytest.raises(GatewayError, match="too much is") as caught:
        client.embed(["草"])

    assert (caught.value.status, caught.value.error_type, caught.value.request_id) == (429, "overloaded", "r7")
    assert len(scripted.asked) == 2


def test_all_vectors_of_a_list_come_from_one_model(scripted: Scripted) -> None:
    """If the model changes between two parts, the first part is requested again."""
    scripted.script = [
        (200, {}, INFO),
        embedding(2, "old"),
        embedding(1, "new"),
        embedding(2, "new"),
        embedding(1, "new"),
    ]
    with Client(scripted.url) as client:
        embedded = client.embed(["草", "好", "死"])

    assert (embedded.fingerprint, embedded.vectors.shape, len(scripted.asked)) == ("new", (3, 2), 5)


@pytest.mark.parametrize(
    ("step", "error_type"),
    [
        ((200, {}, {"hello": "world"}), "bad_answer"),
        ((200, {}, ["f"]), "bad_answer"),
        ((502, {}, "a proxy's page"), "bad_answer"),
        ((307, {"Location": "http://127.0.0.1:1/"}, ""), "bad_answer"),
        (embedding(3), "bad_answer"),
        ((401, {}, {"error": "no such key", "error_type": "unauthorized"}), "unauthorized"),
    ],
)
def test_a_response_that_is_not_a_gateways_is_an_error(
    scripted: Scripted, step: tuple[int, dict[str, str], object], error_type: str
) -> None:
    scripted.script = [(200, {}, INFO), step]
    with Client(scripted.url) as client, pytest.raises(GatewayError) as caught:
        client.embed(["草"])

    assert caught.value.error_type == error_type
    assert len(scripted.asked) == 2


def test_an_unreachable_gateway_is_reported_at_the_deadline() -> None:
    (port,) = free_ports(1)
    with Client(f"http://127.0.0.1:{port}", timeout_s=0.5) as client, pytest.raises(GatewayError) as caught:
        client.info()
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(GatewayError, match="cannot reach .*/rebuild"):
        list(client.rebuild("room"))  # asked once: it may be gone on with later

    assert caught.value.error_type == "unreachable"
    assert f"cannot reach http://127.0.0.1:{port}/info" in str(caught.value)


def test_a_silent_gateway_is_reported_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout_s=0.2) as client, pytest.raises(GatewayError, match="within 0.2 s") as caught:
            client.info()

    assert (caught.value.error_type, caught.value.status) == ("out_of_time", None)


def test_an_invalid_address_is_an_error() -> None:
    with (
        Client("nonsense") as client,
        pytest.raises(GatewayError, match="invalid URL: 'nonsense'; expected one such as http://"),
    ):
        client.info()


def test_an_interrupted_client_cancels_its_calls(caplog: pytest.LogCaptureFixture) -> None:
    """As after Ctrl-C, waiting callers are released, and the event loop does not complain."""
    failures: list[BaseException] = []

    def ask(client: Client) -> None:
        try:
            client.info()
        except BaseException as failure:
            failures.append(failure)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Client(f"http://127.0.0.1:{silent.getsockname()[1]}") as client:
            asking = threading.Thread(target=ask, args=(client,), daemon=True)
            asking.start()
            connection, _ = silent.accept()
            connection.recv(1)  # it has been asked
        asking.join(10)
        connection.close()
    gc.collect()

    assert [type(failure) for failure in failures] == [concurrent.futures.CancelledError]
    assert "Task was destroyed" not in caplog.text
