"""Embeds a file of danmaku, one per line, into a file of vectors in the same order.

    lines → blocks → embed, several at a time → rows, in order → work file → output

Row n is line n: a line without a vector keeps its place and gets a reason. Memory does not grow with the input.
Finished blocks are saved (`work_file.py`), so the same command resumes after a crash. Blocks are embedded by a gateway,
or in this process by the same embedder that a gateway uses.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from danmaku_client import AsyncClient, EmbedResponse, TextError
from tqdm import tqdm

from service.commands.embed.outputs import Output
from service.commands.embed.work_file import Progress, WorkFile
from service.embedder import open_embedder
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.settings import Settings
from service.vectors import unit

BLOCK_LINES = 1024
BLOCKS_IN_FLIGHT = 4  # keeps the encoder, or the gateway, busy while we read and write
MAX_LINE_BYTES = 2**20
GATEWAY_TIMEOUT_S = 300.0  # per block: a gateway that is being restarted should not end a long run

EmbedTexts = Callable[[Sequence[str]], Awaitable[EmbedResponse]]


@asynccontextmanager
async def open_model(settings: Settings, *, normalize: bool) -> AsyncIterator[EmbedTexts]:
    room = settings.model_copy(update={"max_queue_texts": BLOCKS_IN_FLIGHT * BLOCK_LINES})
    async with open_embedder(room, Metrics()) as embedder:

        async def embed(texts: Sequence[str]) -> EmbedResponse:
            result = await embedder.embed(texts)
            vectors = unit(result.vectors) if normalize else result.vectors
            errors = [TextError(error.index, error.error, error.error_type) for error in result.errors]
            return EmbedResponse(vectors, result.model.name, result.model.fingerprint, result.truncated, errors)

        yield embed


@asynccontextmanager
async def open_gateway(url: str, *, normalize: bool) -> AsyncIterator[EmbedTexts]:
    async with AsyncClient(url, os.environ.get("DANMAKU_API_KEY"), timeout_s=GATEWAY_TIMEOUT_S) as client:
        yield partial(client.embed, normalize=normalize)


async def embed_file(
    source: BinaryIO,
    path: Path,
    output: Output,
    embedder: AbstractAsyncContextManager[EmbedTexts],
    *,
    normalize: bool,
    quiet: bool,
) -> Progress:
    """Embeds `source` into `path`, resuming a run that was interrupted.

    Raises ConfigurationError, OSError and what `embedder` raises. Finished blocks are saved in any case.
    """
    with WorkFile(path) as work:
        async with embedder as embed:
            return await _embed_lines(source, output, work, embed, normalize=normalize, quiet=quiet)


async def _embed_lines(
    source: BinaryIO, output: Output, work: WorkFile, embed: EmbedTexts, *, normalize: bool, quiet: bool
) -> Progress:
    first = await embed([])
    start = Progress(first.model, first.fingerprint, first.vectors.shape[1], normalize)
    progress = await asyncio.to_thread(work.begin, start, output.head(first), source)
    if progress.lines:
        print(f"danmaku embed: resuming after {progress.lines:,} lines", file=sys.stderr)
    is_quiet = quiet or not sys.stderr.isatty()
    total = None if is_quiet else _count_lines(source)
    blocks = _embed_in_order(source, progress.lines, embed)
    with tqdm(total=total, initial=progress.lines, disable=is_quiet, unit=" lines", smoothing=0.05) as bar:
        async with aclosing(blocks):
            async for block, response in blocks:
                if response.fingerprint != first.fingerprint:
                    raise ConfigurationError(
                        f"the gateway changed its model after {progress.lines} lines, from fingerprint "
                        f"{first.fingerprint} to {response.fingerprint}; their vectors cannot be compared"
                    )
                progress = work.add(
                    output.rows(progress.lines, block.texts, response),
                    block.raw,
                    lines=len(block.texts),
                    truncated=len(response.truncated),
                    error_types=[error.error_type for error in response.errors],
                )
                bar.update(len(block.texts))
    await asyncio.to_thread(work.finish, lambda path: output.finish(path, progress.lines, progress.dim))
    return progress


async def _embed_in_order(
    source: BinaryIO, number: int, embed: EmbedTexts
) -> AsyncGenerator[tuple[Block, EmbedResponse], None]:
    """Yields the blocks from line `number` on, in order, while up to BLOCKS_IN_FLIGHT are being embedded."""
    in_flight: deque[tuple[Block, asyncio.Task[EmbedResponse]]] = deque()
    is_over = False
    try:
        while in_flight or not is_over:
            while len(in_flight) < BLOCKS_IN_FLIGHT and not is_over:
                if block := await asyncio.to_thread(read_block, source, number):
                    number += len(block.texts)
                    in_flight.append((block, asyncio.create_task(_embed_block(embed, block))))
                else:
                    is_over = True
            if in_flight:
                yield in_flight[0][0], await in_flight[0][1]
                in_flight.popleft()
    finally:
        for _, task in in_flight:
            task.cancel()
        await asyncio.gather(*[task for _, task in in_flight], return_exceptions=True)


@dataclass(frozen=True)
class Block:
    """Consecutive lines of the input."""

    raw: bytes
    texts: list[str]
    unreadable: list[TextError]


def read_block(source: BinaryIO, number: int) -> Block | None:
    """Reads the next lines; the first one has the number `number`, counted from 0. Returns None at the end."""
    raw: list[bytes] = []
    texts: list[str] = []
    unreadable: list[TextError] = []
    while len(texts) < BLOCK_LINES and (line := source.readline(MAX_LINE_BYTES + 1)):
        if len(line) > MAX_LINE_BYTES:
            raise ConfigurationError(
                f"invalid line {number + len(texts) + 1}: longer than {MAX_LINE_BYTES} bytes; "
                "expected one danmaku per line"
            )
        raw.append(line)
        try:
            texts.append(line.rstrip(b"\r\n").decode())
        except UnicodeDecodeError as error:
            unreadable.append(TextError(len(texts), f"the line is not UTF-8: {error.reason}", "not_utf8"))
            texts.append("")
    return Block(b"".join(raw), texts, unreadable) if texts else None


async def _embed_block(embed: EmbedTexts, block: Block) -> EmbedResponse:
    response = await embed(block.texts)
    if not block.unreadable:
        return response
    unreadable = {error.index: error for error in block.unreadable}  # were sent as "" and came back as blank
    return replace(response, errors=[unreadable.get(error.index, error) for error in response.errors])


def _count_lines(source: BinaryIO) -> int | None:
    """Counts the lines of a regular file without moving its position; returns None for a pipe."""
    if not source.seekable():
        return None
    position = source.tell()
    source.seek(0)
    count, last = 0, b"\n"
    while chunk := source.read(2**20):
        count, last = count + chunk.count(b"\n"), chunk[-1:]

    source.seek(position)
    return count + (last != b"\n")
