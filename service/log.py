"""Configures the logs of the process.

* stdout: the access log, one JSON line per request, and nothing else. A thread writes it from a bounded
  queue: when nobody reads the pipe, lines are dropped and counted, and the count is written as soon as there is room.
* stderr: everything else, as text for people or, with `log_format json`, as JSON lines. Messages that are logged while
  a request is served have its id.

Lines hold a request's method, path and X-Request-ID; never other headers, the query, a text or a setting, because any
of these may be secret.
"""

from __future__ import annotations

import json
import logging.config
import os
import threading
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

log = logging.getLogger("danmaku")

STDOUT = 1
GATHER_S = 0.1  # lines are written together: waking the thread for each would cost more than making it
MAX_WAITING_LINES = 20_000
CLOSE_S = 1.0  # time for the last lines, if nobody reads them
LINE = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE


@dataclass(slots=True)
class RequestRecord:
    """Facts about the request that is being served, for logs and metrics."""

    id: str
    texts: int | None = None  # None if the request was refused before its texts were counted
    is_stream: bool = False


current_request: ContextVar[RequestRecord | None] = ContextVar("current_request", default=None)


class AccessLog:
    """A context manager; within it, `write` takes microseconds and never waits."""

    def __init__(self, fd: int = STDOUT, max_waiting: int = MAX_WAITING_LINES) -> None:
        self._fd, self._max_waiting = fd, max_waiting
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._is_broken = False
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)

    def __enter__(self) -> AccessLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_S)

    def write(self, entry: dict[str, object]) -> None:
        if self._is_broken:
            return
        if len(self._waiting) >= self._max_waiting:
            self._lost += 1
            return
        self._waiting.append(orjson.dumps(entry, option=LINE))
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        reported = 0  # of lost lines
        try:
            while not self._closing.is_set() or self._waiting:
                self._wake.wait()
                self._closing.wait(GATHER_S)
                self._wake.clear()
                lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
                if (lost := self._lost - reported) > 0:
                    reported += lost
                    lines.append(orjson.dumps({"time": datetime.now(UTC), "lost_lines": lost}, option=LINE))
                _write_all(self._fd, b"".join(lines))
        except OSError as error:
            self._is_broken = True
            self._waiting.clear()
            log.warning("The access log ends here: cannot write to stdout (%s).", error.strerror)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def configure(log_format: str) -> None:
    """Sends everything but the access log to stderr, as "text" or "json"."""
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": NameRequest}},
        "formatters": {
            "text": {"()": "uvicorn.logging.DefaultFormatter", "fmt": "%(levelprefix)s %(message)s%(of_request)s"},
            "json": {"()": JsonFormatter},
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": log_format, "filters": ["request"]}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"danmaku": {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
    }
    logging.config.dictConfig(config)


class NameRequest(logging.Filter):
    """Adds the id of the request that is being served, if there is one, to a log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        current = current_request.get()
        record.request_id = current.id if current else None
        record.of_request = f" [{current.id}]" if current else ""
        return True


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", None):
            entry["id"] = request_id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)
