"""NDJSON through POST /embed: what a line may be, what ends a stream, and that it has no length."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import httpx
import numpy as np
import psutil
import pytest
from conftest import ClientOf
from fakes import RecordingEncoder
from processes import serving

from service.encoders.model import Prepared
from service.settings import Settings

NDJSON = {"content-type": "application/x-ndjson"}
T = TypeVar("T")
LINES = int(os.environ.get("STREAM_LINES", "100000"))
TEXTS = ["草", "awsl", "哈哈哈", "晚安"]


def lines_of(*values: object) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


async def stream(client: httpx.AsyncClient, body: object, options: str = "", **headers: str) -> list[dict[str, object]]:
    """The lines of the answer."""
    answer = await client.post(f"/embed{options}", content=body, headers=NDJSON | headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.fixture
async def gateway(recording_encoder: RecordingEncoder, client_of: ClientOf) -> AsyncIterator[httpx.AsyncClient]:
    """The application over an encoder with a gate; four texts may wait."""
    async with client_of(Settings(max_request_texts=4, max_queue_texts=4)) as http:
        yield http
        recording_encoder.gate.set()


async def test_every_line_has_its_line(client: httpx.AsyncClient) -> None:
    """In order, after one that names the model; the vectors are those of a list."""
    expected = (await client.post("/embed", json=TEXTS)).json()
    head, *rows = await stream(client, lines_of(*TEXTS))

    assert head == {"model": "tiny", "fingerprint": expected["fingerprint"], "dim": 16}
    assert rows == [{"index": index, "embedding": row} for index, row in enumerate(expected["embeddings"])]


@pytest.mark.parametrize("given", ["a", 7, -1.5, True, None, 12345678901234567890123, "😂"])
async def test_an_id_comes_back(client: httpx.AsyncClient, given: object) -> None:
    """As it was, whatever number it is; lines without one have none."""
    _, first, second = await stream(client, lines_of({"text": "草", "id": given}, {"text": "草"}))

    assert list(first) == ["index", "id", "embedding"]
    assert (first["id"], type(first["id"])) == (given, type(given))
    assert "id" not in second


async def test_options_stand_in_the_query(client: httpx.AsyncClient) -> None:
    raw = np.array((await client.post("/embed", json=TEXTS)).json()["embeddings"], np.float32)
    _, *rows = await stream(client, lines_of(*TEXTS), "?encoding=base64&normalize=true")
    vectors = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])

    np.testing.assert_allclose(vectors, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "headers", "message"),
    [
        ("?encodng=base64", {}, "encodng: "),
        ("?encoding=hex", {}, "'float' or 'base64'"),
        ("?normalize=perhaps", {}, "normalize: "),
        ("", {"X-Timeout-Ms": "soon"}, "X-Timeout-Ms is 'soon'"),
    ],
)
async def test_what_is_wrong_with_the_whole_is_said_before_it_begins(
    client: httpx.AsyncClient, options: str, headers: dict[str, str], message: str
) -> None:
    answer = await client.post(f"/embed{options}", content=lines_of("草"), headers=NDJSON | headers)

    assert (answer.status_code, answer.json()["error_type"]) == (422, "invalid_request")
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("line", "error_type", "message"),
    [
        ("草", "malformed_json", "the line is not JSON"),
        ('{"text": "草"', "malformed_json", "the line is not JSON: EOF"),
        ('"\\ud800"', "malformed_json", "not JSON"),
        ("[" * 5000, "malformed_json", "not JSON"),
        ("3", "invalid_request", "the line: "),
        ('["草"]', "invalid_request", "the line: "),
        ('{"txt": "草"}', "invalid_request", "text: Field required"),
        ('{"text": "草", "id": [1]}', "invalid_request", "id: Input should be a string, a finite number"),
        ('{"text": "草", "id": 1e999}', "invalid_request", "id: "),
        ('{"text": "草", "room": 3}', "invalid_request", "room: "),
        ('" "', "empty_text", "blank"),
        ('"😂"', "unspellable", "vocabulary"),
    ],
)
async def test_a_line_without_a_vector_is_an_error_in_its_place(
    client: httpx.AsyncClient, line: str, error_type: str, message: str
) -> None:
    """And the stream goes on."""
    _, before, row, after = await stream(client, f'"草"\n{line}\n"草"\n')

    assert (row["index"], row["embedding"], row["error_type"]) == (1, None, error_type)
    assert message in row["error"]
    assert (before["embedding"], after["index"]) == (after["embedding"], 2)


async def test_a_long_text_is_truncated_and_said_to_be(client: httpx.AsyncClient) -> None:
    _, short, long = await stream(client, lines_of("草", "哈" * 3000))

    assert "truncated" not in short
    assert long["truncated"] is True and len(long["embedding"]) == 16


@pytest.mark.parametrize(
    "body", ["", "\n", '"草"', '"草"\n', '"草"\r\n\r\n', '"草"\n\n\n', '\n"草"', "\n" * 3000 + '"草"']
)
async def test_blank_lines_are_no_texts(client: httpx.AsyncClient, body: str) -> None:
    """Nor does the last line need an end."""
    _, *rows = await stream(client, body)

    assert [row["index"] for row in rows] == ([0] if "草" in body else [])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
async def test_lines_may_come_in_any_pieces(client: httpx.AsyncClient, size: int) -> None:
    body = lines_of(*TEXTS, {"text": "我好了", "id": "😂"}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    assert await stream(client, pieces()) == await stream(client, body)


async def test_a_line_over_the_limit_is_the_end(client: httpx.AsyncClient) -> None:
    """Lines before it are answered, a stream of many is not too long, and memory is not asked for what comes."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield lines_of("哈" * 100, "草").encode()
        while True:  # a line without end
            yield b"a" * 1000
            await asyncio.sleep(0)

    _, *rows, last = await asyncio.wait_for(stream(client, body()), 30)

    assert [row["index"] for row in rows] == list(range(600))
    assert list(last) == ["error", "error_type"] and last["error_type"] == "too_large"
    assert "line 600, counted from 0, is over 20000 bytes" in last["error"]
    _, first, last = await stream(client, lines_of("草", "哈" * 10_000, "草"))
    assert (first["index"], last["error_type"]) == (0, "too_large")


async def test_only_a_stream_is_without_a_limit(client: httpx.AsyncClient) -> None:
    """To call another body one does not help."""

    async def body() -> AsyncIterator[bytes]:
        yield b" " * 30_000

    for path in ("/similar", "/tokenize", "/encode"):
        assert (await client.post(path, content=body(), headers=NDJSON)).status_code == 413


async def test_a_stream_that_does_not_fit_waits(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    """Where a list would be refused, since the queue is full."""
    recording_encoder.gate.clear()
    encoding = asyncio.create_task(gateway.post("/embed", json=["a"]))
    await recording_encoder.until_called()
    waiting = asyncio.create_task(gateway.post("/embed", json=["b", "c", "d", "e"]))
    await asyncio.sleep(0.05)
    assert (await gateway.post("/embed", json=["f"])).status_code == 429
    streaming = asyncio.create_task(stream(gateway, lines_of(*"fghijklmn")))
    await asyncio.sleep(0.05)
    recording_encoder.gate.set()
    _, *rows = await streaming

    assert [row["embedding"] for row in rows] == [RecordingEncoder.vector(text) for text in "fghijklmn"]
    assert [(await answer).status_code for answer in (encoding, waiting)] == [200, 200]


async def test_the_deadline_is_of_a_slice(gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder) -> None:
    """And ends the stream with a line that says so."""
    recording_encoder.gate.clear()
    _, last = await asyncio.wait_for(stream(gateway, lines_of("草"), **{"X-Timeout-Ms": "50"}), 10)

    assert (last["error_type"], last["error"][:21]) == ("out_of_time", "not done within 50 ms")


async def test_all_vectors_of_a_stream_are_of_one_model(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    """If another takes over in the middle, that is the end."""
    encode, is_encoded = recording_encoder.encode, asyncio.Event()

    async def encode_and_tell(batch: Sequence[Prepared]) -> np.ndarray:
        vectors = await encode(batch)
        is_encoded.set()
        return vectors

    async def body() -> AsyncIterator[bytes]:
        yield lines_of("a").encode()
        await is_encoded.wait()
        await asyncio.sleep(0.05)
        recording_encoder.model = replace(recording_encoder.model, fingerprint="f1")
        yield lines_of("b").encode()

    recording_encoder.encode = encode_and_tell  # type: ignore[method-assign]
    head, row, last = await stream(gateway, body())

    assert (head["fingerprint"], row["index"]) == ("f0", 0)
    assert last["error_type"] == "model_changed" and "from f0 to f1" in last["error"]


async def test_an_encoder_that_breaks_is_the_last_line(
    gateway: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    recording_encoder.failure = RuntimeError("broken")
    _, last = await stream(gateway, lines_of("草"))

    assert last == {"error": "the encoder failed", "error_type": "encoder_failure"}


@dataclass
class Connection:
    """A client that reads and writes at the same time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent_lines: int = 0

    async def send(self, lines: Iterable[str]) -> None:
        batch: list[str] = []
        for line in lines:
            batch.append(line)
            if len(batch) == 500:
                await self._chunk(batch)
                batch = []
        await self._chunk(batch)

    async def _chunk(self, batch: list[str]) -> None:
        if batch:
            data = "".join(batch).encode()
            self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await self.writer.drain()
            self.sent_lines += len(batch)

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def lines(self) -> AsyncIterator[dict[str, object]]:
        """Of the answer's body, whose chunks may end anywhere."""
        rest = b""
        while size := int(await self.reader.readline(), 16):
            *whole, rest = (rest + (await self.reader.readexactly(size + 2))[:-2]).split(b"\n")
            for line in whole:
                yield json.loads(line)
        assert rest == b""


@asynccontextmanager
async def connected(client: httpx.Client, *headers: str) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
    head = ["POST /embed?encoding=base64 HTTP/1.1", "Host: x", "Content-Type: application/x-ndjson", *headers]
    writer.write("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
    status = await reader.readuntil(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 200 ")
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def texts(count: int, padding: str = "") -> Iterable[str]:
    """Distinct ones that the tiny model can spell; `padding` makes both sides send more for each."""
    for number in range(count):
        yield lines_of({"text": f"草{number:b}".replace("1", "2").replace("0", "?"), "id": f"{number}{padding}"})


def sample(client: httpx.Client, name: str) -> float:
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


async def steady(value: Callable[[], T]) -> T:
    """What the value is once it changes no more."""
    before = None
    while (now := value()) != before:
        before = now
        await asyncio.sleep(1)
    return now


async def test_memory_is_flat_however_long_a_stream_is(tiny_model: Path) -> None:
    """STREAM_LINES=200000 makes it thorough."""
    count = LINES
    with serving("--cache-bytes", "100000", model=f"onnx://{tiny_model}") as (client, process):
        memory: list[int] = []
        async with connected(client) as connection:

            async def send() -> None:
                await connection.send(texts(count))
                await connection.end()

            sending = asyncio.create_task(send())
            expected = -1  # the head comes first
            async for line in connection.lines():
                assert line.get("index", -1) == int(line.get("id", -1)) == expected
                assert expected < 0 or line["embedding"]
                expected += 1
                if expected % (LINES // 40) == 0:
                    memory.append(psutil.Process(process.pid).memory_info().rss)
            await sending

    assert expected == count
    assert max(memory[16:]) - max(memory[:16]) < 10 * 2**20


async def test_who_reads_slowly_is_read_slowly(tiny_model: Path) -> None:
    """The gateway takes no more than it can answer, and answers all of it in the end."""
    count = 60_000
    with serving("--cache-bytes", "1000000", model=f"onnx://{tiny_model}") as (client, process):
        before = psutil.Process(process.pid).memory_info().rss
        async with connected(client) as connection:
            sending = asyncio.create_task(connection.send(texts(count, "x" * 1000)))
            await steady(lambda: (connection.sent_lines, sample(client, "danmaku_texts_total")))
            sent = connection.sent_lines
            assert 0 < sent < count
            assert sample(client, "danmaku_queue_texts") == 0
            assert psutil.Process(process.pid).memory_info().rss - before < 50 * 2**20
            answered = 0
            async for line in connection.lines():
                answered += "index" in line
                if answered >= sent:
                    break
            sending.cancel()

    assert answered == sent


@pytest.mark.parametrize("is_whole", [True, False])
async def test_who_hangs_up_is_worked_for_no_more(is_whole: bool) -> None:
    """Whether all was sent by then or not; what waits for the encoder leaves its queue."""
    with serving("--threads", "1") as (client, process):
        async with connected(client) as connection:
            if is_whole:
                await connection.send(lines_of(f"晚安{number} " * 40) for number in range(600))
                await connection.end()
            else:
                sending = asyncio.create_task(connection.send(lines_of(f"晚安{n} " * 40) for n in range(100_000)))
            async for line in connection.lines():
                assert "dim" in line
                break
        if not is_whole:
            sending.cancel()
        worked = await steady(lambda: sample(client, "danmaku_batch_texts_sum"))

        assert worked < (600 if is_whole else 5000)
        assert sample(client, "danmaku_queue_texts") == 0
        assert client.post("/embed", json=["草"]).status_code == 200
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=60)[1]


async def test_who_sends_all_before_reading_is_told(tiny_model: Path) -> None:
    """Both sides would wait for each other for ever."""
    with serving(model=f"onnx://{tiny_model}") as (client, _):
        async with connected(client, "X-Timeout-Ms: 1000") as connection:
            await connection.send(texts(30_000, "x" * 1000))
            await connection.end()
            lines = [line async for line in connection.lines()]

    assert 0 < len(lines) < 30_000
    assert lines[-1]["error_type"] == "stalled" and "while you send" in lines[-1]["error"]
    assert [line["index"] for line in lines[1:-1]] == list(range(len(lines) - 2))


async def test_who_stops_in_the_middle_is_told(tiny_model: Path) -> None:
    """What came before is answered."""
    with serving("--receive-timeout-s", "1", model=f"onnx://{tiny_model}") as (client, _):
        async with connected(client) as connection:
            await connection.send(texts(3))
            lines = [line async for line in connection.lines()]

    assert [line.get("index") for line in lines] == [None, 0, 1, 2, None]
    assert lines[-1]["error_type"] == "body_timeout"


async def test_streams_are_counted_apart(client: httpx.AsyncClient) -> None:
    """They may take hours, which would spoil the times of lists."""
    await stream(client, lines_of("草"))
    counted = (await client.get("/metrics")).text

    assert 'danmaku_requests_total{outcome="ok",route="/embed stream"} 1.0' in counted
    assert 'danmaku_requests_total{outcome="ok",route="/embed"} 0.0' in counted
