"""`danmaku embed`: a file of danmaku, one a line, to a file of vectors, in the same order.

    lines → blocks → embed, several at a time → rows, in order → work file → output

Row n is line n: a line without a vector keeps its place and has a reason. Memory does not grow with the input. What is
done is kept (`work.py`), so the same command goes on after whatever ended it. Blocks are embedded by a gateway, or in
this process by the embedder that a gateway has.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from danmaku_client import AsyncClient, Embedded, TextError
from tqdm import tqdm

from service.commands.embed.outputs import Output
from service.commands.embed.work_file import Note, WorkFile
from service.embedder import open_embedder
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.settings import Settings
from service.vectors import unit

BLOCK_LINES = 1024
BLOCKS_IN_FLIGHT = 4  # so that the encoder, or the gateway, never waits for us
MAX_LINE_BYTES = 2**20
GATEWAY_TIMEOUT_S = 300.0  # for a block: a gateway that is being restarted should not end a long run

Embed = Callable[[Sequence[str]], Awaitable[Embedded]]


@asynccontextmanager
async def this_process(settings: Settings, *, normalize: bool) -> AsyncIterator[Embed]:
    room = settings.model_copy(update={"max_queue_texts": BLOCKS_IN_FLIGHT * BLOCK_LINES})
    async with open_embedder(room, Metrics()) as embedder:

        async def embed(texts: Sequence[str]) -> Embedded:
            found = await embedder.embed(texts)
            vectors = unit(found.vectors) if normalize else found.vectors
            errors = [TextError(error.index, error.error, error.error_type) for error in found.errors]
            return Embedded(vectors, found.model.name, found.model.fingerprint, found.truncated, errors)

        yield embed


@asynccontextmanager
async def gateway(url: str, *, normalize: bool) -> AsyncIterator[Embed]:
    async with AsyncClient(url, os.environ.get("DANMAKU_API_KEY"), timeout_s=GATEWAY_TIMEOUT_S) as client:
        yield partial(client.embed, normalize=normalize)


async def embed_file(
    source: BinaryIO,
    path: Path,
    output: Output,
    opened: AbstractAsyncContextManager[Embed],
    *,
    normalize: bool,
    quiet: bool,
) -> Note:
    """Raises ConfigurationError, what embedding raises, OSError; what is done by then is kept."""
    with WorkFile(path) as work:
        async with opened as embed:
            return await _embed_lines(source, output, work, embed, normalize=normalize, quiet=quiet)


async def _embed_lines(
    source: BinaryIO, output: Output, work: WorkFile, embed: Embed, *, normalize: bool, quiet: bool
) -> Note:
    first = await embed([])
    wanted = Note(first.model, first.fingerprint, first.vectors.shape[1], normalize)
    note = await asyncio.to_thread(work.begin, wanted, output.head(first), source)
    if note.lines:
        print(f"danmaku embed: going on after {note.lines:,} lines", file=sys.stderr)
    is_quiet = quiet or not sys.stderr.isatty()
    total = None if is_quiet else _count_lines(source)
    blocks = _embed_in_order(source, note.lines, embed)
    with tqdm(total=total, initial=note.lines, disable=is_quiet, unit=" lines", smoothing=0.05) as bar:
        async with aclosing(blocks):
            async for block, embedded in blocks:
                if embedded.fingerprint != first.fingerprint:
                    raise ConfigurationError(
                        f"after {note.lines} lines the gateway went from fingerprint {first.fingerprint} to "
                        f"{embedded.fingerprint}, whose vectors cannot be compared with those before"
                    )
                note = work.add(
                    output.rows(note.lines, block.texts, embedded),
                    block.read,
                    lines=len(block.texts),
                    truncated=len(embedded.truncated),
                    error_types=[error.error_type for error in embedded.errors],
                )
                bar.update(len(block.texts))
    await asyncio.to_thread(work.finish, lambda path: output.finish(path, note.lines, note.dim))
    return note


async def _embed_in_order(source: BinaryIO, number: int, embed: Embed) -> AsyncGenerator[tuple[Block, Embedded], None]:
    """Blocks of the lines from `number` on; some are always under way behind the one that is waited for."""
    in_flight: deque[tuple[Block, asyncio.Task[Embedded]]] = deque()
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
    """Consecutive lines."""

    read: bytes  # as they stand in the input
    texts: list[str]
    unreadable: list[TextError]


def read_block(source: BinaryIO, number: int) -> Block | None:
    """The next lines, the first of which is line `number` from 0; None at the end."""
    read: list[bytes] = []
    texts: list[str] = []
    unreadable: list[TextError] = []
    while len(texts) < BLOCK_LINES and (line := source.readline(MAX_LINE_BYTES + 1)):
        if len(line) > MAX_LINE_BYTES:
            raise ConfigurationError(
                f"line {number + len(texts) + 1} is longer than {MAX_LINE_BYTES} bytes; expected a danmaku a line"
            )
        read.append(line)
        try:
            texts.append(line.rstrip(b"\r\n").decode())
        except UnicodeDecodeError as error:
            unreadable.append(TextError(len(texts), f"the line is not UTF-8: {error.reason}", "not_utf8"))
            texts.append("")
    return Block(b"".join(read), texts, unreadable) if texts else None


async def _embed_block(embed: Embed, block: Block) -> Embedded:
    embedded = await embed(block.texts)
    if not block.unreadable:
        return embedded
    instead = {error.index: error for error in block.unreadable}  # of being blank, as they were sent
    return replace(embedded, errors=[instead.get(error.index, error) for error in embedded.errors])


def _count_lines(source: BinaryIO) -> int | None:
    """Of all the input, if it can be read twice; leaves its position as it is."""
    if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
        return None
    position = source.tell()
    source.seek(0)
    count, last = 0, b"\n"
    while read := source.read(2**20):
        count, last = count + read.count(b"\n"), read[-1:]
    source.seek(position)
    return count + (last != b"\n")
