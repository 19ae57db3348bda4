"""Uses remote workers as one encoder: `danmaku worker` or genuine bert-serving-servers, over their protocol.

    bert://HOST[:PORT[:PORT_OUT]][,HOST…]      these workers
    bert+dns://NAME[:PORT[:PORT_OUT]]          workers at all addresses of the name, resolved repeatedly

Workers come and go, and have different models during a rolling update. The pool's model is the one of most ready
workers; texts that were prepared for another model go to its workers while there are any. A batch is computed by one
worker. Encoding a text twice gives the same vector, so a batch whose worker is lost, fails or is slow is also sent to
a second one, and the first answer counts.

`pooled_worker.py` handles one address, `worker_connection.py` one connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import zmq.asyncio

from service import wire
from service.encoders.model import Model, Prepared
from service.encoders.pooled_worker import Address, PooledWorker, Resolve, resolve
from service.encoders.worker_connection import WorkerFailed, WorkerLost
from service.errors import ConfigurationError, DanmakuError, EncoderFailure, EncoderUnavailable, ModelGone
from service.metrics import Metrics
from service.worker_key import present_key

log = logging.getLogger("danmaku")

MAX_START_S = 2.0  # how long the start waits for the first worker
MAX_ATTEMPTS = 2  # workers that get one batch
MAX_OBSTACLES = 5  # in one message


class RemoteEncoder:
    """See `Encoder`."""

    batch_tokens = None

    def __init__(
        self,
        metrics: Metrics,
        resolve: Resolve,
        *,
        key_file: Path | None,
        resolve_every_s: float,
        slow_s: float,
        timeout_s: float,
    ) -> None:
        self._metrics, self._resolve = metrics, resolve
        self._resolve_every_s, self._slow_s, self._timeout_s = resolve_every_s, slow_s, timeout_s
        options = present_key(key_file) if key_file else {}
        self._context = zmq.asyncio.Context()
        self._context.sockopts.update(options)
        self._workers: dict[Address, PooledWorker] = {}
        self._leaving: set[PooledWorker] = set()  # removed from the pool, with answers outstanding
        self._models: WeakValueDictionary[str, Model] = WeakValueDictionary()
        self._model: Model | None = None
        self._has_model = asyncio.Event()
        self._unresolved = ""
        self._resolving: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        metrics: Metrics,
        resolve: Resolve = resolve,
        *,
        key_file: Path | None = None,
        resolve_every_s: float = 2.0,
        slow_s: float = 2.0,
        timeout_s: float = 30.0,
    ) -> RemoteEncoder:
        """Waits up to MAX_START_S for the first worker, then starts without one. Raises ConfigurationError.

        A batch that takes longer than `slow_s` is also sent to an idle worker. After `timeout_s` it has failed: a
        genuine server sends nothing for a batch that it could not encode.
        """
        scheme, _, rest = url.partition("://")
        try:
            addresses = [Address(*wire.parse_address(part)) for part in rest.split(",")]
        except ValueError as error:
            raise ConfigurationError(f"invalid encoder: {url!r}: {error}") from None
        if scheme == "bert+dns" and len(addresses) > 1:
            raise ConfigurationError(
                f"invalid encoder: {url!r} has several names; expected bert+dns://NAME[:PORT[:PORT_OUT]]"
            )
        encoder = cls(
            metrics, resolve, key_file=key_file, resolve_every_s=resolve_every_s, slow_s=slow_s, timeout_s=timeout_s
        )
        if scheme == "bert+dns":
            encoder._resolving = asyncio.create_task(encoder._resolve_repeatedly(addresses[0]), name="resolve")
        else:
            encoder._set_addresses(addresses)
        try:
            async with asyncio.timeout(MAX_START_S):
                await encoder._has_model.wait()
        except TimeoutError:
            log.warning("Starting without a worker: %s", encoder.obstacle)
        except BaseException:
            await encoder.aclose()
            raise
        return encoder

    async def aclose(self) -> None:
        if self._resolving:
            self._resolving.cancel()
            await asyncio.wait([self._resolving])
        await asyncio.gather(*(worker.close() for worker in (*self._workers.values(), *self._leaving)))
        await asyncio.to_thread(self._context.term)

    @property
    def model(self) -> Model:
        if self._model is None:
            raise EncoderUnavailable("no worker has answered yet")
        return self._model

    @property
    def concurrency(self) -> int:
        return max(1, sum(worker.concurrency for worker in self._ready()))

    @property
    def obstacle(self) -> str | None:
        if self._ready():
            return None
        reasons = [f"{worker.address.url}: {worker.obstacle}" for worker in self._workers.values()]
        listed = [*([self._unresolved] if self._unresolved else []), *reasons[:MAX_OBSTACLES]]
        if len(reasons) > MAX_OBSTACLES:
            listed.append(f"and {len(reasons) - MAX_OBSTACLES} more")
        return f"no worker is ready ({'; '.join(listed) or 'none is known'})"

    @property
    def workers(self) -> list[dict[str, Any]]:
        return [worker.describe() for worker in (*self._workers.values(), *self._leaving)]

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """See `Encoder`. Also raises EncoderUnavailable, if no worker is ready or the last one was lost meanwhile."""
        fingerprint = batch[0].fingerprint
        tried: list[PooledWorker] = []
        calls: dict[asyncio.Task[np.ndarray], PooledWorker] = {}
        failure: WorkerLost | WorkerFailed | None = None
        give_up_at = time.monotonic() + self._timeout_s
        try:
            while time.monotonic() < give_up_at:
                # While the first worker is still busy with it, only an idle one is worth a second attempt.
                worker = self._least_busy(fingerprint, tried, must_be_idle=bool(calls))
                if worker and len(tried) < MAX_ATTEMPTS:
                    if tried:
                        self._metrics.calls_retried["slow" if calls else _kind(failure)].inc()
                    for slow in calls.values():
                        slow.avoid()
                    tried.append(worker)
                    calls[worker.encode(batch)] = worker
                if not calls:
                    raise self._refusal(fingerprint, failure)
                done, _ = await asyncio.wait(calls, timeout=self._slow_s, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    try:
                        return call.result()
                    except (WorkerLost, WorkerFailed) as error:
                        failure, worker = error, calls.pop(call)
                        log.warning("%s did not encode %d texts: %s", worker.address.url, len(batch), error)
                        if isinstance(error, WorkerFailed):
                            worker.avoid()
            raise EncoderFailure(f"no worker answered within {self._timeout_s:g} s")
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _ready(self) -> list[PooledWorker]:
        return [worker for worker in self._workers.values() if worker.is_ready]

    def _least_busy(
        self, fingerprint: str, excluded: Sequence[PooledWorker] = (), *, must_be_idle: bool = False
    ) -> PooledWorker | None:
        candidates = [
            worker
            for worker in self._ready()
            if worker.has_model(fingerprint) and worker not in excluded and not (must_be_idle and worker.owed_tokens)
        ]
        # Idle workers take turns: the fault of one that gets no texts would go unnoticed.
        return min(candidates, key=lambda worker: (worker.is_avoided, worker.owed_tokens, worker.used_at), default=None)

    def _refusal(self, fingerprint: str, failure: WorkerLost | WorkerFailed | None) -> DanmakuError:
        self._update_model()  # a worker may just have left
        if self._ready() and self._least_busy(fingerprint) is None and self.model.fingerprint != fingerprint:
            return ModelGone("no worker serves the model for which the texts were prepared")
        if isinstance(failure, WorkerFailed):
            return EncoderFailure(f"the worker could not encode: {failure}")
        return EncoderUnavailable("the worker was lost before it answered" if failure else "no worker is ready")

    def _update_model(self) -> None:
        """Takes the model of most ready workers; the current model wins a tie."""
        ready = self._ready()
        self._metrics.workers_known.set(len(self._workers))
        self._metrics.workers_ready.set(len(ready))
        workers_of = Counter(worker.model for worker in ready)
        self._metrics.worker_fingerprints.set(len(workers_of))
        if not workers_of:
            return  # cached vectors of the last model are still valid
        most = max(workers_of.values())
        if workers_of[self._model] < most:
            self._model = next(model for model, number in workers_of.items() if number == most)
            assert self._model
            log.info("The model of most workers is %s (%s).", self._model.name, self._model.fingerprint)
        self._has_model.set()

    def _set_addresses(self, addresses: Sequence[Address]) -> None:
        for address in self._workers.keys() - set(addresses):
            worker = self._workers.pop(address)
            self._leaving.add(worker)
            worker.retire("its address was removed from the name")
        for address in addresses:
            if address not in self._workers:
                self._workers[address] = self._start_worker(address)
        self._update_model()

    def _start_worker(self, address: Address) -> PooledWorker:
        worker = PooledWorker(
            self._context, address, self._models, self._metrics, resolve=self._resolve, on_change=self._update_model
        )
        worker.start().add_done_callback(lambda _: self._leaving.discard(worker))
        return worker

    async def _resolve_repeatedly(self, name: Address) -> None:
        while True:
            try:
                hosts = await self._resolve(name.host)
                obstacle = "" if hosts else f"{name.host} has no address"
            except OSError as error:
                hosts, obstacle = [], f"cannot resolve {name.host}: {error.strerror}"
            if obstacle and obstacle != self._unresolved:
                log.warning("%s", obstacle)
            self._unresolved = obstacle
            if hosts:  # otherwise the known workers stay: a DNS failure does not mean that they are gone
                self._set_addresses([Address(host, name.port, name.port_out) for host in hosts])
            await asyncio.sleep(self._resolve_every_s)


def _kind(failure: WorkerLost | WorkerFailed | None) -> str:
    return "failed" if isinstance(failure, WorkerFailed) else "lost"
