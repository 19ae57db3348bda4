"""The bot: lines come in, are embedded, kept in a collection for a while, and answered.

    source ─▶ queue ─▶ all that waits, as one batch ─▶ embed, and add to the collection ─▶ chat, script ─▶ views

Batches form by themselves while the gateway is busy. It says when to come back, and the client does; a gateway that is
gone for longer is waited for, with the lines kept. So no line is lost, and a line may be answered late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from danmaku_client import AsyncClient, CollectionItem, EmbedResponse, GatewayError, SimilarMatch

from .chat import Chat, Script
from .report import Copy, Counts, Report
from .sources import Said
from .views import View

MOST_WAITING = 100_000  # lines; then the source has to wait
MOST_A_BATCH = 256
NEAREST_HEARD = 3  # lines of the script that may be meant by what is said

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    collection: str = "chat"
    ttl_s: float = 600.0  # of this machine's clock
    report_every_s: float = 60.0  # of the stream's
    script: Sequence[tuple[str, str]] = ()  # what is heard, and what to say to it
    watch: str | None = None  # a line whose copies are counted
    copy_score: float = 0.9


class Bot:
    def __init__(self, client: AsyncClient, settings: Settings, view: View) -> None:
        self._client, self._settings, self._view = client, settings, view
        self._queue: asyncio.Queue[Said | None] = asyncio.Queue(MOST_WAITING)
        self._failure: Exception | None = None
        self._fingerprint = ""
        self._script = Script(settings.script)
        self.counts = Counts()

    async def run(self, source: AsyncIterator[Said]) -> None:
        """Until the source ends. Raises SourceError, and GatewayError for a gateway that is not there at the start, or
        for what waiting does not mend.
        """
        await self._make_collection()  # before the first line comes; a gateway that is not there yet ends it
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
        except Exception as error:  # raised again when all that came before it is dealt with
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
        texts, ttl_s = [said.text for said in batch], self._settings.ttl_s
        embedded, answers, _ = await asyncio.gather(  # at once: a text that is on its way is not encoded twice
            self._patiently(lambda: self._client.embed(texts, normalize=True)),
            self._find_heard(texts),
            self._patiently(lambda: self._add([CollectionItem(text, ttl_s=ttl_s) for text in texts])),
        )
        if embedded.fingerprint != self._fingerprint:
            self._begin(embedded)
        has_vector = ~np.isnan(embedded.vectors[:, 0])
        self.counts.embedded += int(has_vector.sum())
        self.counts.without_vector += int((~has_vector).sum())
        now = time.monotonic()
        for said, vector, good, heard in zip(batch, embedded.vectors, has_vector, answers, strict=True):
            self.counts.delays_s.append(now - said.came_s)
            while said.at_s >= self._report_at:
                await self._report(self._report_at)
                self._report_at += self._settings.report_every_s
            if good:
                self._chat.add(said.text, said.at_s, vector)
                if reply := self._script.reply(said.text, said.at_s, heard):
                    self._view.reply(said.at_s - self._first, reply)

    async def _find_heard(self, texts: Sequence[str]) -> list[list[SimilarMatch]]:
        """Returns for each text the nearest lines of the script, with how they relate to it."""
        if not self._script.heard:
            return [[] for _ in texts]
        found = await self._patiently(lambda: self._client.similar(texts, self._script.heard, top_k=NEAREST_HEARD))
        return found.matches

    def _begin(self, embedded: EmbedResponse) -> None:
        """With a model: at the start, and when the gateway has another one, whose vectors are not comparable."""
        self._fingerprint = embedded.fingerprint
        self._chat = Chat(embedded.vectors.shape[1])

    async def _add(self, items: Sequence[CollectionItem]) -> None:
        try:
            await self._client.add(self._settings.collection, items)
        except GatewayError as error:
            if error.error_type not in ("not_found", "fingerprint_mismatch"):
                raise
            await self._make_collection()
            await self._client.add(self._settings.collection, items)

    async def _make_collection(self) -> None:
        """Another model's is dropped: it only holds the last minutes."""
        name = self._settings.collection
        try:
            await self._client.create(name)
        except GatewayError as error:
            if error.error_type != "collection_exists":
                raise
            await self._client.drop(name)
            await self._client.create(name)

    async def _report(self, at_s: float) -> None:
        """Reports the topics of the chat, unless it is silent."""
        settings, copies = self._settings, list[Copy]()
        if not (lines := self._chat.lines(at_s)):
            return
        if (watch := settings.watch) is not None:
            found = await self._patiently(
                lambda: self._client.search(settings.collection, watch, top_k=100, min_score=settings.copy_score)
            )
            copies = [Copy(match.text, match.count, match.score) for match in found.matches[0]]
        self._view.report(Report(at_s - self._first, lines, self._chat.topics(at_s), watch, copies))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The client has tried for its time; what may pass is tried for as long as it takes."""
        while True:
            try:
                return await ask()
            except GatewayError as error:
                if not error.is_transient and error.error_type != "out_of_time":
                    raise
                self._view.trouble(str(error))
