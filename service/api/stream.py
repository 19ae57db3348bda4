"""NDJSON on POST /embed: a line in, a line out, for as many lines as there are.

    body → lines → slices → embedder → lines → caller
                   └─ two at a time: what comes after them is not read before the first of them was taken

So a stream costs the same memory however long it is, and a caller who reads slowly slows down what is read from them.
There is no timer: what has arrived is a slice, and while two are on their way, lines gather by themselves. A line that
is no text is an error in its place. What concerns the whole, after the answer has begun, is the last line of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from service.api.reading import header
from service.api.schemas import StreamLine, StreamOptions, explain
from service.api.state import Caller, state_of
from service.api.vectors import shown
from service.embedder import Embeddings
from service.errors import ClientGone, DanmakuError, InternalError, ModelChanged, Overloaded, Stalled, TooLarge
from service.log import serving

log = logging.getLogger("danmaku")

NDJSON = "application/x-ndjson"
NAMES = (NDJSON.encode(), b"application/jsonl")
ITEMS = re.compile("/collections/[^/]+/danmaku")
SLICE_LINES = 256
SLICES_AT_A_TIME = 2
PIECE_BYTES = 64 * 2**10  # of an answer, so that whoever takes it slowly is seen to take it

# For the OpenAPI document, beside what /embed takes otherwise.
OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema,
            "description": "Of an NDJSON stream; other bodies have a field for it.",
        }
        for name, schema in StreamOptions.model_json_schema()["properties"].items()
    ]
}

T = TypeVar("T")


def is_stream(scope: Scope) -> bool:
    """Whether a request is one: it is read as it comes, so nothing may wait for its end."""
    if scope["method"] != "POST" or not (scope["path"] == "/embed" or ITEMS.fullmatch(scope["path"])):
        return False
    kind = header(scope, b"content-type") or b""
    return kind.partition(b";")[0].strip().lower() in NAMES


class EmbedStream(Response):
    """The answer to a stream: it reads as it writes."""

    def __init__(self, request: Request) -> None:
        """Raises InvalidRequest for other options than there are, EncoderUnavailable if no model is known."""
        super().__init__(media_type=NDJSON)
        self._state = state = state_of(request)
        self._caller = Caller(request)
        try:
            self._options = StreamOptions.model_validate(dict(request.query_params))
        except ValidationError as error:
            raise explain(error, "the query") from None
        self._model = state.embedder.model
        self._slice_lines = min(SLICE_LINES, state.settings.max_request_texts)
        self._room = asyncio.Semaphore(SLICES_AT_A_TIME)
        self._slices: asyncio.Queue[asyncio.Task[list[bytes]] | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[list[bytes]]] = set()
        self._fault: DanmakuError | None = None  # of the body
        self._is_read = False
        self._sending: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            if error := await self._answer(receive, send):
                await _first(self._end(send, error), _drop(receive))
        finally:
            for task in self._tasks:
                task.cancel()
            if self._sending:
                self._sending.cancel()

    async def _answer(self, receive: Receive, send: Send) -> DanmakuError | None:
        """Everything but the last line, if there is an error to tell."""
        try:
            await _first(self._write(send), self._read(receive))
        except DanmakuError as error:
            return error
        except Exception:
            log.exception("A stream failed.")
            return InternalError("something went wrong on our side; the log has the details")
        return None

    async def _read(self, receive: Receive) -> None:
        """Starts slices while there is room; ends when the caller is gone."""
        limit = self._state.settings.max_body_bytes
        try:
            async for index, lines in slices(receive, max_lines=self._slice_lines, max_line_bytes=limit):
                await self._room.acquire()
                task = asyncio.create_task(self._embed(index, lines), name="slice")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                self._slices.put_nowait(task)
            self._is_read = True
        except ClientGone:
            return
        except DanmakuError as fault:
            self._fault = fault
        self._slices.put_nowait(None)
        await _drop(receive)

    async def _write(self, send: Send) -> None:
        model = self._model
        await self._put(send, _line({"model": model.name, "fingerprint": model.fingerprint, "dim": model.dim}))
        while task := await self._slices.get():
            for piece in await task:
                await self._put(send, piece)
            self._room.release()
        if self._fault:
            raise self._fault
        await send({"type": "http.response.body"})

    async def _put(self, send: Send, lines: bytes) -> None:
        self._sending = asyncio.ensure_future(send({"type": "http.response.body", "body": lines, "more_body": True}))
        await asyncio.wait((self._sending,), timeout=self._caller.timeout_s)
        if not self._sending.done() and not self._is_read:
            # Most likely they send all before they read: both sides would wait for each other for ever.
            raise Stalled(
                f"nothing of the answer was taken for {self._caller.timeout_s * 1000:.0f} ms, so nothing more was "
                "read; read the answer while you send, or send less at a time"
            )
        await self._sending

    async def _end(self, send: Send, error: DanmakuError) -> None:
        if self._sending:
            await self._sending
        last = _line({"error": str(error), "error_type": error.error_type})
        await send({"type": "http.response.body", "body": last})

    async def _embed(self, first: int, lines: Sequence[bytes]) -> list[bytes]:
        """The lines that answer these, the first of which has that index, in pieces of whole lines."""
        read = [_read_line(line) for line in lines]
        embeddings = await self._embedded([line.text for line in read if isinstance(line, StreamLine)])
        if embeddings.model.fingerprint != self._model.fingerprint:
            raise ModelChanged(
                f"the model was changed from {self._model.fingerprint} to {embeddings.model.fingerprint}, whose "
                "vectors are not comparable; send what comes after the last line once more"
            )
        if served := serving.get():
            served.texts = first + len(lines)
        told = iter(self._told(embeddings))
        pieces = [bytearray()]
        for index, line in enumerate(read, first):
            if isinstance(line, StreamLine):
                given = {"id": orjson.Fragment(json.dumps(line.id))} if "id" in line.model_fields_set else {}
                pieces[-1] += _line({"index": index, **given, **next(told)})
            else:
                error = {"error": str(line), "error_type": line.error_type}
                pieces[-1] += _line({"index": index, "embedding": None, **error})
            if len(pieces[-1]) > PIECE_BYTES:
                pieces.append(bytearray())
        return [bytes(piece) for piece in pieces]

    async def _embedded(self, texts: Sequence[str]) -> Embeddings:
        """Overload is waited out: a stream has the time, and whoever sends it could do no better."""
        while True:
            try:
                return await self._state.embedder.embed(texts, self._in_time)
            except Overloaded as overloaded:
                await asyncio.sleep(overloaded.retry_after_s or 1)

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """As `Caller.wait`, for a slice: who hangs up is noticed by who reads."""
        try:
            async with asyncio.timeout(self._caller.timeout_s):
                return await work
        except TimeoutError:
            raise self._caller.out_of_time() from None

    def _told(self, embeddings: Embeddings) -> list[dict[str, object]]:
        in_base64 = self._options.encoding == "base64"
        vectors = shown(embeddings, normalize=self._options.normalize, in_base64=in_base64)
        told: list[dict[str, object]] = [{"embedding": vector} for vector in vectors]
        for index in embeddings.truncated:
            told[index]["truncated"] = True
        for error in embeddings.errors:
            told[error.index] |= {"error": error.error, "error_type": error.error_type}
        return told


async def slices(receive: Receive, *, max_lines: int, max_line_bytes: int) -> AsyncIterator[tuple[int, list[bytes]]]:
    """The lines of a body as they come, blank ones left out, with the index of the first.

    Raises TooLarge after the lines before the one that is, ClientGone.
    """
    index, rest, more = 0, bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the caller hung up in the middle of the body")
        more = message.get("more_body", False)
        *whole, last = message.get("body", b"").split(b"\n")
        if whole:
            whole[0] = bytes(rest) + whole[0]
            rest.clear()
        rest += last
        if not more:
            whole.append(bytes(rest))
        lines = [line for line in whole if line and not line.isspace()]
        short = list(takewhile(lambda line: len(line) <= max_line_bytes, lines))
        for at in range(0, len(short), max_lines):
            yield index + at, short[at : at + max_lines]
        index += len(short)
        if len(short) < len(lines) or len(rest) > max_line_bytes:
            raise TooLarge(f"line {index}, counted from 0, is over {max_line_bytes} bytes; nothing after it was read")


def _read_line(line: bytes) -> StreamLine | DanmakuError:
    try:
        return StreamLine.model_validate_json(line)
    except ValidationError as error:
        return explain(error, "the line")


def _line(content: dict[str, object]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


async def _drop(receive: Receive) -> None:
    """Reads until the caller is gone. What they still send is not wanted, and they may not listen before it is sent."""
    with suppress(DanmakuError):  # too late, or damaged: then who writes finds out that they are gone
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    await asyncio.Event().wait()


async def _first(*work: Coroutine[Any, Any, None]) -> None:
    """Waits for one of them, ends the others, and raises what it raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
