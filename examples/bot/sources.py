"""Reads danmaku from a file that a recorder is writing, standard input, a room, or a recording at any speed.

Each source yields lines as they arrive, with two times: the stream's, which is used to judge the chat, and this
machine's, which is used to measure the bot's delay.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from service.recordings import RecordingError, open_recording
from service.recordings.recording import READ

from .lines import Line, Reader, lines_of

POLL_S = 0.1
CHUNK_BYTES = 1 << 16
HEAD_BYTES = 1 << 16


class SourceError(Exception):
    """The error for a source that cannot yield danmaku; the message says why."""


@dataclass(frozen=True)
class Said:
    text: str
    at_s: float  # by the stream's clock
    came_s: float  # by `time.monotonic`: when it arrived, or in a replay when it was due


async def open_source(source: str, speed: float | None) -> AsyncIterator[Said]:
    """Opens `-` (standard input), `room:123` (a room), or a file, which is followed, or replayed at a speed.

    Raises SourceError. A replay begins when its first line is requested.
    """
    if source == "-":
        return standard_input()
    if source.startswith("room:"):
        return room(source.removeprefix("room:"))
    return follow(open_tail(Path(source))) if speed is None else replay(await recording(Path(source)), speed)


def is_followed(source: str, speed: float | None) -> bool:
    """Returns whether `open_source` opens a file that stays open."""
    return speed is None and source != "-" and not source.startswith("room:")


def open_tail(path: Path) -> Tail:
    """Raises SourceError if there is no such file, or if it is not a recording: nothing would ever come."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise SourceError(f"{path} {what}; expected a recording, - for standard input, or room:NUMBER")
    tail = Tail(path)
    try:
        tail.read()  # opens the file
    except SourceError:
        tail.close()
        raise
    return tail


async def follow(tail: Tail) -> AsyncIterator[Said]:
    """Follows a file like `tail -F`: yields lines that are added from now on, also by a new file of that name."""
    with closing(tail):
        while True:
            lines = await asyncio.to_thread(tail.read)
            for line in lines:
                yield _now(line)
            if not lines:
                await asyncio.sleep(POLL_S)


class Tail:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = Reader(str(path))
        self._file: BinaryIO | None = None
        self._is_first = path.exists()  # a file that appears later is read from its beginning

    def close(self) -> None:
        if self._file:
            self._file.close()

    def read(self) -> list[Line]:
        """Returns the bytes added to the file since the last call, which are usually none."""
        try:
            if self._file and (chunk := self._file.read(CHUNK_BYTES)):
                return list(self._reader.feed(chunk))
            if not self._path.exists() or not self._is_another():
                return []
            self.close()
            lines = list(self._reader.feed(b"", is_last=True))  # the last one of a file may have no end
            self._file, self._reader = self._path.open("rb", buffering=0), Reader(str(self._path))
            if self._is_first:
                self._reader = Reader(str(self._path), head=self._file.read(HEAD_BYTES))
                self._file.seek(0, os.SEEK_END)
                self._is_first = False
            return lines
        except OSError as error:
            raise SourceError(f"{self._path} cannot be read: {error.strerror}") from None
        except RecordingError as error:
            raise SourceError(str(error)) from None

    def _is_another(self) -> bool:
        """Returns whether the file was replaced or truncated."""
        if self._file is None:
            return True
        named, opened = self._path.stat(), os.fstat(self._file.fileno())
        return not os.path.samestat(named, opened) or named.st_size < self._file.tell()


async def standard_input() -> AsyncIterator[Said]:
    """Reads standard input in a thread, as it may be a terminal, pipe or file; a daemon, as it may never end."""
    loop, chunks = asyncio.get_running_loop(), asyncio.Queue[bytes](maxsize=16)

    def read() -> None:
        chunk = b"?"
        while chunk:
            chunk = os.read(0, CHUNK_BYTES)
            asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()

    threading.Thread(target=read, daemon=True).start()
    reader = Reader()
    try:
        while chunk := await chunks.get():
            for line in reader.feed(chunk):
                yield _now(line)
        for line in reader.feed(b"", is_last=True):
            yield _now(line)
    except RecordingError as error:
        raise SourceError(str(error)) from None


async def recording(path: Path) -> list[tuple[float, str]]:
    """Returns the file's lines, in order of their times."""
    try:
        lines = await asyncio.to_thread(lambda: list(lines_of(open_recording(path).rows())))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except RecordingError as error:
        raise SourceError(str(error)) from None
    if not lines:
        raise SourceError(f"{path} contains no danmaku; {READ}")
    timed = sorted((line.at_s, place, line.text) for place, line in enumerate(lines) if line.at_s is not None)
    if not timed:
        raise SourceError(
            f"{path}: none of {len(lines)} danmaku has a time for the replay; expected XML, or JSON with `time` or "
            "`ts`. Without --speed, lines are read as they arrive"
        )
    return [(at_s, text) for at_s, _, text in timed]


async def replay(lines: Sequence[tuple[float, str]], speed: float) -> AsyncIterator[Said]:
    """Replays lines by the recording's own clock, this many times as fast."""
    first, began = lines[0][0], time.monotonic()
    for at_s, text in lines:
        due = began + (at_s - first) / speed
        if (wait_s := due - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        yield Said(text, at_s, due)


async def room(number: str) -> AsyncIterator[Said]:
    """Follows a room of Bilibili, by the number in its address."""
    try:
        from bilibili_api.live import LiveDanmaku
    except ModuleNotFoundError as error:
        raise SourceError(f"a room needs {error.name}: .venv/bin/pip install -e '.[bot]'") from None
    if not number.isdecimal():
        raise SourceError(f"invalid room: {number}; expected its number, such as room:21452505")
    said: asyncio.Queue[str | None] = asyncio.Queue()
    live = LiveDanmaku(int(number))
    live.add_event_listener("DANMU_MSG", lambda event: said.put_nowait(event["data"]["info"][1]))
    connection = asyncio.create_task(live.connect())  # reconnects several times by itself
    connection.add_done_callback(lambda _: said.put_nowait(None))
    try:
        while (text := await said.get()) is not None:
            yield _now(Line(text))
        raise SourceError(f"room:{number} has ended: {connection.exception() or live.err_reason or 'it was closed'}")
    finally:
        connection.cancel()


def _now(line: Line) -> Said:
    now = time.monotonic()
    return Said(line.text, now, now)
