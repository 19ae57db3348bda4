"""The access log: the fields of a line, and lines that nobody reads."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from datetime import datetime, timedelta

import httpx
import pytest
from processes import serving

from service.log import AccessLog


def lines(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.splitlines()]


def test_lines_are_complete_and_in_order() -> None:
    reading, writing = os.pipe()
    with AccessLog(writing) as access_log:
        for number in range(500):
            access_log.write({"number": number, "path": "/草\n"})
    os.close(writing)
    with open(reading, "rb") as file:
        assert lines(file.read()) == [{"number": number, "path": "/草\n"} for number in range(500)]


def test_lines_that_nobody_reads_are_dropped_and_counted() -> None:
    """Writing never blocks; when the output is read again, the log says how many lines are missing."""
    reading, writing = os.pipe()
    count, most = 5000, 100
    with AccessLog(writing, max_waiting=most) as access_log:
        access_log.write({"number": -1, "filling": "x" * 200_000})  # more than a pipe holds
        while access_log._waiting:  # until the thread has it, and waits for a reader
            time.sleep(0.01)
        for number in range(count):
            access_log.write({"number": number})
        data = b""
        while b"lost_lines" not in data:
            data += os.read(reading, 65536)
        access_log.write({"number": count})
    os.close(writing)
    with open(reading, "rb") as file:
        found = lines(data + file.read())

    written = [line["number"] for line in found if "number" in line]
    assert written == [-1, *range(most), count]
    assert [line["lost_lines"] for line in found if "lost_lines" in line] == [count - most]


def test_a_log_without_a_reader_ends(caplog: pytest.LogCaptureFixture) -> None:
    """A warning is logged once, and requests are unaffected."""
    reading, writing = os.pipe()
    os.close(reading)
    with AccessLog(writing) as access_log:
        for _ in range(30):
            access_log.write({"number": 1})
            time.sleep(0.01)
    os.close(writing)

    assert [record.message for record in caplog.records] == [
        "The access log ends here: cannot write to stdout (Broken pipe)."
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_every_request_has_a_line(tmp_path: object) -> None:
    """Successful probes have none. A line contains no query, and its values are right."""
    path = os.path.join(str(tmp_path), "access.jsonl")
    with open(path, "wb") as file, serving(stdout=file) as (client, process):
        embedded = client.post("/embed?token=hunter2", json=["草", "awsl"], headers={"X-Request-ID": "mine"})
        client.post("/embed", content=b"no")
        client.get("/no%0Athing")
        for probe in ("/healthz", "/readyz", "/metrics"):
            client.get(probe)
        client.post("/healthz")
        leave_in_the_middle(client, [f"草 {number}" for number in range(9000)])
        process.terminate()
        process.communicate(timeout=60)
    with open(path, "rb") as file:
        data = file.read()
    first, *others = [line for line in lines(data) if line["path"] != "/readyz"]  # asked before the gateway was ready

    assert list(first) == [
        *("time", "id", "method", "path", "status", "outcome", "seconds"),
        *("bytes_in", "bytes_out", "texts", "client", "key"),
    ]
    taken = datetime.now().astimezone() - datetime.fromisoformat(str(first["time"]))
    assert timedelta(0) <= taken < timedelta(minutes=5)
    assert str(first["time"]).endswith("Z")
    assert (first["id"], first["method"], first["path"], first["status"]) == ("mine", "POST", "/embed", 200)
    assert (first["outcome"], first["texts"], first["client"]) == ("ok", 2, "127.0.0.1")
    assert (first["bytes_in"], first["bytes_out"]) == (len(embedded.request.content), len(embedded.content))
    assert 0 < float(str(first["seconds"])) < 60
    assert [(line["path"], line["status"], line["outcome"], line["texts"]) for line in others] == [
        ("/embed", 400, "invalid", None),
        ("/no\nthing", 404, "invalid", None),
        ("/healthz", 405, "invalid", None),
        ("/embed", 499, "gone", 9000),
    ]
    assert b"hunter2" not in data


def leave_in_the_middle(client: httpx.Client, texts: list[str]) -> None:
    """Sends a request and hangs up while its texts are encoded."""
    body = json.dumps(texts).encode()
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.base_url.port)) as connection:
        connection.sendall(head.encode() + body)
        while "danmaku_in_flight_texts 0.0" in client.get("/metrics").text:
            time.sleep(0.01)


def test_a_full_pipe_delays_no_request() -> None:
    """It does not keep the process from ending, either."""
    reading, writing = os.pipe()
    with serving(stdout=writing) as (client, process):
        for _ in range(600):  # lines of 180 bytes and more; a pipe holds 64 KiB
            assert client.get("/info").status_code == 200
        process.terminate()
        assert process.wait(60) == 0
    os.close(reading)
    os.close(writing)
