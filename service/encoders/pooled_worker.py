"""A worker of the pool: connects to one address, learns its model, and connects again whenever it is lost."""

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

from service.encoders.model import Model, Prepared
from service.encoders.remote_model import UnusableWorker, learn_model, read_fingerprint
from service.encoders.worker_connection import WorkerConnection, WorkerFailed, WorkerLost
from service.metrics import Metrics

log = logging.getLogger("danmaku")

RETRY_S = 1.0  # mean pause between attempts to connect
LEARN_S = 10.0  # time limit for learning the model; a genuine server must encode a text for this
# Without a pause, a worker that fails fast would owe the fewest tokens and attract all texts.
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
    """Returns the addresses of a name, or the name if it is an address. Raises OSError.

    Returns only IPv4 addresses if there are any: those of IPv6 would be the same machines.
    """
    try:
        entries = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # raised for a label that is empty or has more than 63 characters
        raise OSError(errno.EINVAL, "invalid host name") from None
    addresses = {family: [str(to[0]) for kind, *_, to in entries if kind == family] for family, *_ in entries}
    return addresses.get(socket.AF_INET) or addresses.get(socket.AF_INET6, [])


class PooledWorker:
    """Call `start`, and `retire` or `close` at the end. `on_change` is called whenever `is_ready` may have changed."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        address: Address,
        models: WeakValueDictionary[str, Model],
        metrics: Metrics,
        *,
        resolve: Resolve,
        on_change: Callable[[], None],
    ) -> None:
        """`models`, by fingerprint, is shared by all workers, so a vocabulary is in memory once per model."""
        self.address = address
        self.obstacle = "it has not answered yet"
        self.model: Model | None = None  # the last known one
        self._context, self._models, self._metrics = context, models, metrics
        self._resolve, self._on_change = resolve, on_change
        self._connection: WorkerConnection | None = None
        self._is_learned = False  # the model of the connection's worker
        self._retired_because = ""
        self._attempts = count()
        self._avoided_until = 0.0
        self.owed_tokens = 0  # of batches without an answer
        self.used_at = 0.0

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run(), name=self.address.url)
        return self._task

    def retire(self, reason: str) -> None:
        """Takes no more texts; the task of `start` ends when the worker has answered the ones it has."""
        self._retired_because = reason
        if self._connection:
            self._connection.retire(reason)
        else:
            self._task.cancel()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    @property
    def is_ready(self) -> bool:
        return self._is_learned and self._connection is not None and not self._connection.leaving.done()

    @property
    def concurrency(self) -> int:
        """Its concurrent model calls and one more, so the next batch is ready when one is done."""
        calls = self._connection.config.get("num_worker") if self._connection else None
        return 1 + (calls if isinstance(calls, int) and calls > 0 else 1)

    @property
    def is_avoided(self) -> bool:
        return time.monotonic() < self._avoided_until

    def avoid(self) -> None:
        """Lets other workers go first for AVOIDED_S."""
        self._avoided_until = time.monotonic() + AVOIDED_S

    def has_model(self, fingerprint: str) -> bool:
        return self.model is not None and self.model.fingerprint == fingerprint

    def encode(self, batch: Sequence[Prepared]) -> asyncio.Task[np.ndarray]:
        """Starts to encode; the task returns [len(batch), dim] or raises WorkerLost or WorkerFailed."""

        def settle(_: asyncio.Task[np.ndarray]) -> None:
            self.owed_tokens -= tokens

        tokens = sum(prepared.num_tokens for prepared in batch)
        self.owed_tokens += tokens
        self.used_at = time.monotonic()
        task = asyncio.create_task(self._encode(batch), name="encode remotely")
        task.add_done_callback(settle)
        return task

    async def _encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        if not self.is_ready:
            raise WorkerLost(self.obstacle)
        assert self._connection and self.model
        # ` ||| ` may turn a text into a pair. Separated bars are the same tokens and never do.
        texts = [prepared.text.replace("|||", "| | |") for prepared in batch]
        vectors = await self._connection.encode(texts)
        if vectors.ndim != 2 or vectors.shape[1] != self.model.dim:
            raise WorkerFailed(f"invalid vectors: shape {vectors.shape}; expected {self.model.dim} numbers per text")
        if len(vectors) != len(batch):
            raise WorkerFailed(f"sent {len(batch)} texts, got {len(vectors)} vectors back")
        return vectors.astype("<f4", copy=False)

    def describe(self) -> dict[str, Any]:
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
                await self._connect_until_lost()
            except (WorkerLost, WorkerFailed, OSError, zmq.ZMQError) as error:
                self._set_obstacle(str(error))
            except Exception:
                self._set_obstacle("its connection failed; see the log")
                log.exception("%s cannot be used.", self.address.url)
            if not self._retired_because:
                await asyncio.sleep(RETRY_S * random.uniform(0.7, 1.3))  # so that gateways do not all connect at once

    async def _connect_until_lost(self) -> None:
        """Raises WorkerLost or another reason for the end of the connection."""
        hosts = await self._resolve(self.address.host)
        if not hosts:
            raise WorkerLost(f"{self.address.host} has no address")
        host = hosts[next(self._attempts) % len(hosts)]
        observe = self._metrics.worker_ping_seconds.observe
        async with WorkerConnection(
            self._context, host, self.address.port, self.address.port_out, observe
        ) as connection:
            self._connection = connection
            if self._retired_because:
                connection.retire(self._retired_because)
            try:
                self.model = await self._learn_model(connection)
                self._is_learned, self._avoided_until = True, 0.0
                log.info("%s is ready: %s (%s)", self.address.url, self.model.name, self.model.fingerprint)
                self._on_change()
            except UnusableWorker as error:  # stays connected: the same process will not answer anything else
                self._set_obstacle(str(error))
            try:
                await asyncio.wait([connection.leaving])
                self._set_obstacle(connection.leaving.result())
                await asyncio.wait([connection.ended])
                raise WorkerLost(connection.ended.result())
            finally:
                self._connection, self._is_learned = None, False
                self._on_change()

    async def _learn_model(self, connection: WorkerConnection) -> Model:
        fingerprint = read_fingerprint(connection.config)
        if fingerprint in self._models:
            return self._models[fingerprint]
        try:
            async with asyncio.timeout(LEARN_S):
                model = await learn_model(connection)
        except TimeoutError:
            raise WorkerLost(f"it did not describe its model within {LEARN_S:g} s") from None
        return self._models.setdefault(fingerprint, model)

    def _set_obstacle(self, obstacle: str) -> None:
        if obstacle != self.obstacle:
            log.warning("%s is not ready: %s", self.address.url, obstacle)
        self.obstacle = obstacle
        self._on_change()
