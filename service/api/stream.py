"""POST /embed with NDJSON: returns a line for each line, for streams of any length.

    body → lines → slices → embedder → lines → caller
                   └─ two at a time: the next one is not read before the caller has received the first of them

So a stream of any length takes the same memory, and the gateway reads slowly from a caller who reads slowly. There is
no timer: the lines that have arrived are a slice, and while two slices are being embedded, more lines accumulate. An
invalid line is an error in its place. An error that ends the stream is its last line.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from service.accounts import pay_for_lines
from service.api.http.body import receive_hang_up, slices
from service.api.http.caller import Caller
from service.api.http.headers import NDJSON
from service.api.http.pieces import NUMBER_BYTES
from service.api.http.responses import error_content, json_line
from service.api.http.schemas import MAX_ERRORS, StreamLine, StreamOptions, explain_error
from service.api.http.state import get_state
from service.api.vectors import format_vectors
from service.embedder import Embeddings
from service.errors import ClientGone, DanmakuError, InternalError, InvalidRequest, ModelChanged, Stalled
from service.log import current_request
from service.memory import release_bytes, wait_for_bytes
from service.shape import LONG_BYTES, check_shape
from service.tasks import retry_overloaded, run_in_thread_if, run_until_first

log = logging.getLogger("danmaku")

SLICE_LINES = 256
SLICES_AT_A_TIME = 2
PIECE_BYTES = 64 * 2**10  # of an answer: small enough to see that a slow caller still reads

# Options of a stream for the OpenAPI document.
OPENAPI: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": schema,
            "description": "For an NDJSON stream; other bodies have a field for it.",
        }
        for name, schema in StreamOptions.model_json_schema()["properties"].items()
    ]
}


def refuse_options(request: Request, options: type[BaseModel]) -> None:
    """Raises InvalidRequest for an option of a stream in the query of a request with another body."""
    if not request.scope["query_string"]:
        return
    if misplaced := next((name for name in request.query_params if name in options.model_fields), None):
        raise InvalidRequest(
            f"invalid query option {misplaced}: expected it as a field of the JSON body; the query is for NDJSON",
            param=misplaced,
        )


class EmbedStream(Response):
    """The response to a stream; it reads and writes at the same time."""

    options_type: type[BaseModel] = StreamOptions  # of the URL's query
    result = "embedding"  # the field of the answer that is null if there is an error

    def __init__(self, request: Request) -> None:
        """Raises InvalidRequest for invalid options, EncoderUnavailable if no model is known."""
        super().__init__(media_type=NDJSON)
        self._state = state = get_state(request)
        self._caller = Caller(request, is_stream=True)
        if record := current_request.get():
            record.is_stream = True
        try:
            self._options = self.options_type.model_validate(dict(request.query_params))
        except ValidationError as error:
            raise explain_error(error, "the query") from None
        self._model = state.embedder.model
        self._slice_lines = min(SLICE_LINES, state.settings.max_request_texts)
        self._room = asyncio.Semaphore(SLICES_AT_A_TIME)
        self._slices: asyncio.Queue[asyncio.Task[tuple[list[bytes], int]] | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[tuple[list[bytes], int]]] = set()
        self._fault: DanmakuError | None = None  # in the body
        self._is_read = False
        self._sending: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            if error := await self._answer(receive, send):
                await run_until_first(self._end(send, error), _drop(receive))
        finally:
            for task in self._tasks:
                task.cancel()
            if self._sending:
                self._sending.cancel()

    async def _answer(self, receive: Receive, send: Send) -> DanmakuError | None:
        """Sends everything but the last line of a stream that fails; returns the error for that line."""
        try:
            await run_until_first(self._write(send), self._read(receive))
        except DanmakuError as error:
            return error
        except Exception:
            log.exception("A stream failed.")
            return InternalError("internal error; the gateway's log has the details")
        return None

    async def _read(self, receive: Receive) -> None:
        """Starts slices while there is room; returns when the caller is gone."""
        limit = self._state.settings.max_body_bytes
        try:
            async for index, lines in slices(receive, max_lines=self._slice_lines, max_line_bytes=limit):
                await self._room.acquire()
                task = asyncio.create_task(self._answer_lines(index, lines), name="slice")
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
        await self._put(send, json_line(self._describe_start()))
        while task := await self._slices.get():
            pieces, held = await task
            for piece in pieces:
                await self._put(send, piece)
            release_bytes(held)
            self._room.release()
        if self._fault:
            raise self._fault
        for piece in self._answer_end():
            await self._put(send, piece)
        await send({"type": "http.response.body"})

    async def _put(self, send: Send, lines: bytes) -> None:
        self._sending = asyncio.ensure_future(send({"type": "http.response.body", "body": lines, "more_body": True}))
        await asyncio.wait((self._sending,), timeout=self._caller.timeout_s)
        if not self._sending.done() and not self._is_read:
            # Most likely the caller sends everything before reading, and both sides would wait for each other forever.
            raise Stalled(
                f"the response was not read for {self._caller.timeout_s * 1000:.0f} ms, so the gateway stopped reading "
                "the request; read the response while you send, or send less at a time"
            )
        await self._sending

    async def _end(self, send: Send, error: DanmakuError) -> None:
        if self._sending:
            await self._sending
        await send({"type": "http.response.body", "body": json_line(error_content(error))})

    def _describe_start(self) -> dict[str, object]:
        """Returns what precedes the answers to all lines."""
        return {"model": self._model.name, "fingerprint": self._model.fingerprint, "dim": self._model.dim}

    def _answer_end(self) -> list[bytes]:
        """Returns what follows the answers to all lines."""
        return []

    async def _hold(self, lines: Sequence[bytes]) -> int:
        """Waits for the memory that lines and their answers need; returns how many bytes are to be released."""
        held = sum(map(len, lines)) + len(lines) * self._model.dim * NUMBER_BYTES
        await wait_for_bytes(held, timeout_s=self._caller.timeout_s)
        return held

    async def _embed(self, texts: Sequence[str], done: int) -> Embeddings:
        """Embeds the texts of a slice; after it, `done` lines are read. Raises ModelChanged."""
        await pay_for_lines(len(texts))
        embeddings = await retry_overloaded(lambda: self._caller.wait(self._state.embedder.embed(texts)))
        if embeddings.model.fingerprint != self._model.fingerprint:
            raise ModelChanged(
                f"the model changed from {self._model.fingerprint} to {embeddings.model.fingerprint}, whose vectors "
                "are not comparable; send the unanswered lines again"
            )
        if record := current_request.get():
            record.texts = done
        return embeddings

    async def _answer_lines(self, first: int, lines: Sequence[bytes]) -> tuple[list[bytes], int]:
        """Returns the answer to lines, the first of which has index `first`, in pieces of whole lines.

        Also returns the number of bytes that are held for it, to be released after it has been sent.
        """
        held = await self._hold(lines)
        is_long = sum(map(len, lines)) > LONG_BYTES
        read = await run_in_thread_if(is_long, lambda: [_parse_line(line) for line in lines])
        texts = [line.text for line in read if isinstance(line, StreamLine)]
        embeddings = await self._embed(texts, first + len(lines))
        answers = iter(await run_in_thread_if(is_long, lambda: self._describe(texts, embeddings)))
        pieces = [bytearray()]
        for index, line in enumerate(read, first):
            if isinstance(line, StreamLine):
                given = {"id": orjson.Fragment(json.dumps(line.id))} if "id" in line.model_fields_set else {}
                pieces[-1] += json_line({"index": index, **given, **next(answers)})
            else:
                pieces[-1] += json_line({"index": index, self.result: None, **error_content(line)})
            if len(pieces[-1]) > PIECE_BYTES:
                pieces.append(bytearray())
        return [bytes(piece) for piece in pieces], held

    def _describe(self, texts: Sequence[str], embeddings: Embeddings) -> list[dict[str, object]]:
        answers: list[dict[str, object]] = [{self.result: result} for result in self._make_results(texts, embeddings)]
        for index in embeddings.truncated:
            answers[index]["truncated"] = True
        for error in embeddings.errors:
            answers[error.index] |= {"error": error.error, "error_type": error.error_type}
        return answers

    def _make_results(self, texts: Sequence[str], embeddings: Embeddings) -> Sequence[object]:
        """Returns the field `result` of the answer to each text."""
        assert isinstance(self._options, StreamOptions)
        in_base64 = self._options.encoding == "base64"
        rows, dim = embeddings.rows, embeddings.model.dim
        return format_vectors(rows, dim, normalize=self._options.normalize, in_base64=in_base64)


def _parse_line(line: bytes) -> StreamLine | DanmakuError:
    try:
        check_shape(line, "the line", max_values=MAX_ERRORS)
        return StreamLine.model_validate_json(line)
    except ValidationError as error:
        return explain_error(error, "the line")
    except DanmakuError as error:
        return error


async def _drop(receive: Receive) -> None:
    """Discards the rest of the request until the client disconnects: some clients send everything before they read."""
    with suppress(DanmakuError):  # late or damaged: then writing to the caller shows whether they are gone
        return await receive_hang_up(receive)
    await asyncio.Event().wait()
