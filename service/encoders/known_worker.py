"""A worker at an address: found, asked who it is, lost, and found again, for as long as the address is of interest."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import zmq
import zmq.asyncio

from service.encoders.link import Link, WorkerFailed, WorkerLost
from service.encoders.model import Model, Prepared
from service.encoders.remote_model import Unusable, fingerprint_of, learn_model
from service.metrics import Metrics

log = logging.getLogger("danmaku")

RETRY_S = 1.0  # about, between attempts to find it
LEARN_S = 10.0  # for a worker that answers to tell its model; a genuine one encodes a text for that
# A worker that failed or was slow would be the one that owes least and draw all texts to itself.
AVOIDED_S = 5.0

Resolve = Callable[[str], Awaitable[list[str]]]


class Address(NamedTuple):
    host: str
    port: int
    port_out: int

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"bert://{host}:{self.port}:{self.port_out}"


async def resolve(name: str) -> list[str]:
    """The addresses of a name; of an address, itself. Raises OSError.

    Those of IPv4 if there are any: a name that has both kinds has them for the same machines.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # what Python says of a label that is empty or has more than 63 characters
        raise OSError(errno.EINVAL, "it is no name of a host") from None
    addresses = {family: [str(to[0]) for kind, *_, to in found if kind == family] for family, *_ in found}
    return addresses.get(socket.AF_INET) or addresses.get(socket.AF_INET6, [])


class KnownWorker:
    """`start` it, and `retire` or `close` it in the end. `changed` is called whenever `is_ready` may have changed."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: Address,
        models: WeakValueDictionary[str, Model],
        metrics: Metrics,
        *,
        resolve: Resolve,
        changed: Callable[[], None],
    ) -> None:
        """`models`, by fingerprint, is shared: workers of one model have one vocabulary among them."""
        self.address = address
        self.obstacle = "it has not answered yet"
        self.model: Model | None = None  # the last that it was known to have
        self._context, self._models, self._metrics = context, models, metrics
        self._resolve, self._changed = resolve, changed
        self._link: Link | None = None
        self._is_learned = False  # what the link's worker has for a model
        self._retired_because = ""
        self._attempts = count()
        self._avoided_until = 0.0
        self.owed_tokens = 0  # of the batches that it has and has not answered
        self.asked_at = 0.0

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run(), name=self.address.url)
        return self._task

    def retire(self, reason: str) -> None:
        """No new texts; the task that `start` gave ends when the worker has answered those it has."""
        self._retired_because = reason
        if self._link:
            self._link.retire(reason)
        else:
            self._task.cancel()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    @property
    def is_ready(self) -> bool:
        return self._is_learned and self._link is not None and not self._link.leaving.done()

    @property
    def concurrency(self) -> int:
        """One call more than it computes at a time: the next one is there when it has done with one."""
        calls = self._link.config.get("num_worker") if self._link else None
        return 1 + (calls if isinstance(calls, int) and calls > 0 else 1)

    @property
    def is_avoided(self) -> bool:
        return time.monotonic() < self._avoided_until

    def avoid(self) -> None:
        """For a while, others are better asked."""
        self._avoided_until = time.monotonic() + AVOIDED_S

    def has_model(self, fingerprint: str) -> bool:
        return self.model is not None and self.model.fingerprint == fingerprint

    def encode(self, batch: Sequence[Prepared]) -> asyncio.Task[np.ndarray]:
        """[len(batch), dim]; or WorkerLost, or WorkerFailed. The batch counts as owed from this moment on."""

        def done(_: asyncio.Task[np.ndarray]) -> None:
            self.owed_tokens -= tokens

        tokens = sum(prepared.num_tokens for prepared in batch)
        self.owed_tokens += tokens
        self.asked_at = time.monotonic()
        task = asyncio.create_task(self._encode(batch), name="ask a worker")
        task.add_done_callback(done)
        return task

    async def _encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        if not self.is_ready:
            raise WorkerLost(self.obstacle)
        assert self._link and self.model
        # ` ||| ` may make a pair of sentences of a text. Bars apart are the same tokens, and never do.
        texts = [prepared.text.replace("|||", "| | |") for prepared in batch]
        vectors = await self._link.encode(texts)
        if vectors.ndim != 2 or vectors.shape[1] != self.model.dim:
            raise WorkerFailed(f"expected vectors of {self.model.dim} numbers, got an array of shape {vectors.shape}")
        if len(vectors) != len(batch):
            raise WorkerFailed(f"sent {len(batch)} texts, got {len(vectors)} vectors back")
        return vectors.astype("<f4", copy=False)

    def shown(self) -> dict[str, Any]:
        return {
            "url": self.address.url,
            "ready": self.is_ready,
            "obstacle": None if self.is_ready else self.obstacle,
            "model": self.model and self.model.name,
            "fingerprint": self.model and self.model.fingerprint,
            "owed_tokens": self.owed_tokens,
        }

    async def _run(self) -> None:
        while not self._retired_because:
            try:
                await self._live()
            except (WorkerLost, WorkerFailed, OSError, zmq.ZMQError) as error:
                self._note(str(error))
            except Exception:
                self._note("its link failed; the log says why")
                log.exception("%s cannot be used.", self.address.url)
            if not self._retired_because:
                await asyncio.sleep(RETRY_S * random.uniform(0.7, 1.3))  # not all gateways at once

    async def _live(self) -> None:
        """From finding it to losing it, which is raised."""
        hosts = await self._resolve(self.address.host)
        if not hosts:
            raise WorkerLost(f"{self.address.host} has no address")
        host = hosts[next(self._attempts) % len(hosts)]
        observe = self._metrics.worker_ping_seconds.observe
        async with Link(self._context, host, self.address.port, self.address.port_out, observe) as link:
            self._link = link
            if self._retired_because:
                link.retire(self._retired_because)
            try:
                self.model = await self._model_of(link)
                self._is_learned, self._avoided_until = True, 0.0
                log.info("%s is ready: %s (%s)", self.address.url, self.model.name, self.model.fingerprint)
                self._changed()
            except Unusable as error:  # it stays linked: what is there will not say anything else
                self._note(str(error))
            try:
                await asyncio.wait([link.leaving])
                self._note(link.leaving.result())
                await asyncio.wait([link.ended])
                raise WorkerLost(link.ended.result())
            finally:
                self._link, self._is_learned = None, False
                self._changed()

    async def _model_of(self, link: Link) -> Model:
        fingerprint = fingerprint_of(link.config)
        if fingerprint in self._models:
            return self._models[fingerprint]
        try:
            async with asyncio.timeout(LEARN_S):
                learned = await learn_model(link)
        except TimeoutError:
            raise WorkerLost(f"it did not tell its model within {LEARN_S:g} s") from None
        return self._models.setdefault(fingerprint, learned)

    def _note(self, obstacle: str) -> None:
        if obstacle != self.obstacle:
            log.warning("%s is not ready: %s", self.address.url, obstacle)
        self.obstacle = obstacle
        self._changed()
