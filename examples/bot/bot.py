"""The bot: it embeds incoming lines, keeps them in a collection for a while, and replies to them.

    source ─▶ queue ─▶ all that waits, as one batch ─▶ observe: embedded once, stored, put into topics ─▶ views
                                                   │          └ labels ─▶ who may be replied to ┐        ▲
                                                   └▶ similar to lines of the script ───────────┴▶ replies

Batches form while the gateway is busy. An overloaded gateway says when to retry, and the client does; if the gateway is
gone for longer, the bot keeps the lines and waits. So no line is lost, but a reply may be late.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from danmaku_client import AsyncClient, GatewayError, ObservedLine, ObserveResponse, SimilarMatch

from .report import Counts, Report
from .script import Script
from .sources import Said
from .views import View

MOST_WAITING = 100_000  # lines; then the source has to wait
MOST_A_BATCH = 256
NEAREST_HEARD = 3  # lines of the script that may match a chat line
MOST_COPIES = 100  # wordings of the watched line
MOST_TOPICS = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    collection: str = "chat"
    ttl_s: float = 600.0  # of this machine's clock
    report_every_s: float = 60.0  # of the stream's
    script: Sequence[tuple[str, str]] = ()  # lines of the chat, and the replies to them
    watch: str | None = None  # a line whose copies, which mean the same, are counted
    only: Set[tuple[str, str]] = frozenset()  # heads and labels of the lines that it replies to; by default all, …
    skip: Set[tuple[str, str]] = frozenset()  # … except those with one of these


class Bot:
    def __init__(self, client: AsyncClient, settings: Settings, view: View) -> None:
        self._client, self._settings, self._view = client, settings, view
        self._queue: asyncio.Queue[Said | None] = asyncio.Queue(MOST_WAITING)
        self._failure: Exception | None = None
        self._script = Script(settings.script)
        self.counts = Counts()

    async def run(self, source: AsyncIterator[Said]) -> None:
        """Runs until the source ends. Raises SourceError, and GatewayError if no gateway is there at the start or
        waiting does not help.
        """
        await self._make_collection()  # before the first line arrives; stops if there is no gateway yet
        reading = asyncio.create_task(self._read(source))
        try:
            while batch := await self._next_batch():
                await self._take_in(batch)
                self._view.progress(batch[-1].at_s - self._first, self.counts)
                self._last = batch[-1].at_s
        finally:
            reading.cancel()
        if self.counts.read:
            await self._report(self._last)
        if self._failure:
            raise self._failure

    async def _read(self, source: AsyncIterator[Said]) -> None:
        try:
            async for said in source:
                if not self.counts.read:
                    self._first = said.at_s
                    self._report_at = said.at_s + self._settings.report_every_s
                self.counts.read += 1
                await self._queue.put(said)
        except Exception as error:  # raised again after all earlier lines are processed
            self._failure = error
        await self._queue.put(None)

    async def _next_batch(self) -> list[Said]:
        batch = []
        said = await self._queue.get()
        while said:
            batch.append(said)
            if len(batch) == MOST_A_BATCH or self._queue.empty():
                return batch
            said = self._queue.get_nowait()
        if batch:
            self._queue.put_nowait(None)  # the end is for the next call to find
        return batch

    async def _take_in(self, batch: Sequence[Said]) -> None:
        """Observes a batch, and reports whenever a minute of the stream is over."""
        start = 0
        while start < len(batch):
            if batch[start].at_s >= self._report_at:
                await self._report(self._report_at)
                while batch[start].at_s >= self._report_at:  # minutes without lines are skipped
                    self._report_at += self._settings.report_every_s
            end = bisect_left(batch, self._report_at, start, key=lambda said: said.at_s)
            await self._observe(batch[start:end])
            start = end

    async def _observe(self, lines: Sequence[Said]) -> None:
        """Sends lines to the gateway, which embeds each once, and replies to them."""
        ttl_s = self._settings.ttl_s
        items = [{"text": said.text, "time": said.at_s, "ttl_s": ttl_s} for said in lines]
        observed, answers = await asyncio.gather(
            self._patiently(lambda: self._observe_items(items)), self._find_heard([said.text for said in lines])
        )
        now = time.monotonic()
        for said, line, heard in zip(lines, observed.lines, answers, strict=True):
            self.counts.delays_s.append(now - said.came_s)
            if line is None:
                self.counts.without_vector += 1
                continue
            self.counts.embedded += 1
            if self._is_for_us(line) and (reply := self._script.reply(said.text, said.at_s, heard)):
                self._view.reply(said.at_s - self._first, reply)

    def _is_for_us(self, line: ObservedLine) -> bool:
        """Returns whether the labels of a line let the bot reply."""
        labels = {(head, found.label) for head, found in line.labels.items()}
        return not (labels & self._settings.skip) and (not self._settings.only or bool(labels & self._settings.only))

    async def _find_heard(self, texts: Sequence[str]) -> list[list[SimilarMatch]]:
        """Returns for each text the nearest lines of the script, and their relations to it."""
        if not self._script.heard:
            return [[] for _ in texts]
        found = await self._patiently(lambda: self._client.similar(texts, self._script.heard, top_k=NEAREST_HEARD))
        return found.matches

    async def _observe_items(self, items: Sequence[Mapping[str, Any]]) -> ObserveResponse:
        heads = sorted({head for head, _ in self._settings.only | self._settings.skip})
        try:
            return await self._client.observe(self._settings.collection, items, heads=heads)
        except GatewayError as error:
            if error.error_type not in ("not_found", "fingerprint_mismatch"):
                raise
            await self._make_collection()
            return await self._client.observe(self._settings.collection, items, heads=heads)

    async def _make_collection(self) -> None:
        """Opens the collection; drops another model's, which only holds the last minutes."""
        name = self._settings.collection
        try:
            await self._client.create(name)
        except GatewayError as error:
            if error.error_type != "collection_exists":
                raise
            await self._client.drop(name)
            await self._client.create(name)

    async def _report(self, at_s: float) -> None:
        collection, watch = self._settings.collection, self._settings.watch
        found = await self._patiently(lambda: self._client.topics(collection))
        copies = list[SimilarMatch]()
        if watch is not None:
            nearest = await self._patiently(lambda: self._client.search(collection, watch, top_k=MOST_COPIES))
            copies = [match for match in nearest.matches[0] if match.relation == "same"]
        self._view.report(Report(at_s - self._first, found.lines, found.topics[:MOST_TOPICS], watch, copies))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Retries temporary errors for as long as they last, after the client's own deadline."""
        while True:
            try:
                return await ask()
            except GatewayError as error:
                if not error.is_transient and error.error_type != "out_of_time":
                    raise
                self._view.trouble(str(error))
