"""Workers elsewhere as one encoder: `danmaku worker`, or a genuine bert-serving-server, over bert-as-service's wire.

    bert://HOST[:PORT[:PORT_OUT]][,HOST…]      these workers
    bert+dns://NAME[:PORT[:PORT_OUT]]          all workers that the name has addresses of, asked again and again

Workers come and go, and may be of different models while one takes over from another. The model of the pool is the one
that most ready workers have; texts that were prepared for another go to its workers as long as there are some. A batch
is computed by one worker as a whole. Encoding the same text twice gives the same vector, so a batch whose worker is
lost, fails or takes long is given to a second one, and the first answer counts.

What happens at one address is in `known_worker`, one connection in `link`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import zmq.asyncio

from service import wire
from service.encoders.known_worker import Address, KnownWorker, Resolve, resolve
from service.encoders.link import WorkerFailed, WorkerLost
from service.encoders.model import Model, Prepared
from service.errors import ConfigurationError, DanmakuError, EncoderFailure, EncoderUnavailable, ModelGone
from service.metrics import Metrics

log = logging.getLogger("danmaku")

FIRST_WORKER_S = 2.0  # the start waits so long for a worker, then goes on without
RESOLVE_S = 2.0  # from one look at the workers' name to the next
SLOW_S = 2.0  # a batch that takes longer is given to an idle worker, too
ANSWER_S = 30.0  # a genuine server drops what it fails at: at some time one has to stop waiting
MAX_WORKERS_ASKED = 2  # for one batch
MAX_OBSTACLES_TOLD = 5


class RemoteEncoder:
    """See `Encoder`."""

    def __init__(self, metrics: Metrics, resolve: Resolve) -> None:
        self._metrics, self._resolve = metrics, resolve
        self._context = zmq.asyncio.Context()
        self._workers: dict[Address, KnownWorker] = {}
        self._leaving: set[KnownWorker] = set()  # they are no longer wanted, and have still to answer
        self._models: WeakValueDictionary[str, Model] = WeakValueDictionary()
        self._model: Model | None = None
        self._has_model = asyncio.Event()
        self._unresolved = ""
        self._following: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, metrics: Metrics, resolve: Resolve = resolve) -> RemoteEncoder:
        """Waits a moment for the first worker, and starts without any all the same. Raises ConfigurationError."""
        scheme, _, rest = url.partition("://")
        try:
            addresses = [Address(*wire.worker_address(part)) for part in rest.split(",")]
        except ValueError as error:
            raise ConfigurationError(f"{url!r}: {error}") from None
        if scheme == "bert+dns" and len(addresses) > 1:
            raise ConfigurationError(f"{url!r} has several names; expected bert+dns://NAME[:PORT[:PORT_OUT]]")
        encoder = cls(metrics, resolve)
        if scheme == "bert+dns":
            encoder._following = asyncio.create_task(encoder._follow(addresses[0]), name="resolve")
        else:
            encoder._want(addresses)
        try:
            async with asyncio.timeout(FIRST_WORKER_S):
                await encoder._has_model.wait()
        except TimeoutError:
            log.warning("Starting without a worker: %s", encoder.obstacle)
        except BaseException:
            await encoder.aclose()
            raise
        return encoder

    async def aclose(self) -> None:
        if self._following:
            self._following.cancel()
            await asyncio.wait([self._following])
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
        told = [*([self._unresolved] if self._unresolved else []), *reasons[:MAX_OBSTACLES_TOLD]]
        if len(reasons) > MAX_OBSTACLES_TOLD:
            told.append(f"and {len(reasons) - MAX_OBSTACLES_TOLD} more")
        return f"no worker is ready ({'; '.join(told) or 'none is known'})"

    @property
    def workers(self) -> list[dict[str, Any]]:
        return [worker.shown() for worker in (*self._workers.values(), *self._leaving)]

    async def encode(self, batch: Sequence[Prepared]) -> np.ndarray:
        """See `Encoder`. Raises EncoderUnavailable, too: no worker is there, or the last was lost meanwhile."""
        fingerprint = batch[0].fingerprint
        asked: list[KnownWorker] = []
        calls: dict[asyncio.Task[np.ndarray], KnownWorker] = {}
        failure: WorkerLost | WorkerFailed | None = None
        give_up_at = time.monotonic() + ANSWER_S
        try:
            while time.monotonic() < give_up_at:
                # To ask a second one while the first is still at it makes sense if that one has nothing else to do.
                worker = self._least_busy(fingerprint, asked, must_be_idle=bool(calls))
                if worker and len(asked) < MAX_WORKERS_ASKED:
                    if asked:
                        self._metrics.calls_retried["slow" if calls else _kind(failure)].inc()
                    for slow in calls.values():
                        slow.avoid()
                    asked.append(worker)
                    calls[worker.encode(batch)] = worker
                if not calls:
                    raise self._refusal(fingerprint, failure)
                done, _ = await asyncio.wait(calls, timeout=SLOW_S, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    try:
                        return call.result()
                    except (WorkerLost, WorkerFailed) as error:
                        failure, worker = error, calls.pop(call)
                        log.warning("%s did not encode %d texts: %s", worker.address.url, len(batch), error)
                        if isinstance(error, WorkerFailed):
                            worker.avoid()
            raise EncoderFailure(f"no worker answered within {ANSWER_S:g} s")
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _ready(self) -> list[KnownWorker]:
        return [worker for worker in self._workers.values() if worker.is_ready]

    def _least_busy(
        self, fingerprint: str, without: Sequence[KnownWorker] = (), *, must_be_idle: bool = False
    ) -> KnownWorker | None:
        fit = [
            worker
            for worker in self._ready()
            if worker.has_model(fingerprint) and worker not in without and not (must_be_idle and worker.owed_tokens)
        ]
        # Of those that owe nothing, each has its turn: one that is never asked could be ill without anybody knowing.
        return min(fit, key=lambda worker: (worker.is_avoided, worker.owed_tokens, worker.asked_at), default=None)

    def _refusal(self, fingerprint: str, failure: WorkerLost | WorkerFailed | None) -> DanmakuError:
        self._count()  # a worker may have gone just now
        if self._ready() and self._least_busy(fingerprint) is None and self.model.fingerprint != fingerprint:
            return ModelGone("no worker has the model any more that the texts were prepared for")
        if isinstance(failure, WorkerFailed):
            return EncoderFailure(f"the worker could not encode: {failure}")
        return EncoderUnavailable("the worker was lost before its answer" if failure else "no worker is ready")

    def _count(self) -> None:
        """Finds the model of most workers. Those that have had it so far win a tie."""
        ready = self._ready()
        self._metrics.workers_known.set(len(self._workers))
        self._metrics.workers_ready.set(len(ready))
        workers_of = Counter(worker.model for worker in ready)
        self._metrics.worker_fingerprints.set(len(workers_of))
        if not workers_of:
            return  # what was encoded so far can still be looked up
        most = max(workers_of.values())
        if workers_of[self._model] < most:
            self._model = next(model for model, number in workers_of.items() if number == most)
            assert self._model
            log.info("Texts are for %s (%s) now.", self._model.name, self._model.fingerprint)
        self._has_model.set()

    def _want(self, addresses: Sequence[Address]) -> None:
        for address in self._workers.keys() - set(addresses):
            worker = self._workers.pop(address)
            self._leaving.add(worker)
            worker.retire("its name does not have it any more")
        for address in addresses:
            if address not in self._workers:
                self._workers[address] = self._started(address)
        self._count()

    def _started(self, address: Address) -> KnownWorker:
        worker = KnownWorker(
            self._context, address, self._models, self._metrics, resolve=self._resolve, changed=self._count
        )
        worker.start().add_done_callback(lambda _: self._leaving.discard(worker))
        return worker

    async def _follow(self, name: Address) -> None:
        while True:
            try:
                hosts = await self._resolve(name.host)
                obstacle = "" if hosts else f"{name.host} has no address"
            except OSError as error:
                hosts, obstacle = [], f"{name.host} cannot be resolved: {error.strerror}"
            if obstacle and obstacle != self._unresolved:
                log.warning("%s", obstacle)
            self._unresolved = obstacle
            if hosts:  # else those known so far stay: they may well be there while nobody tells their addresses
                self._want([Address(host, name.port, name.port_out) for host in hosts])
            await asyncio.sleep(RESOLVE_S)


def _kind(failure: WorkerLost | WorkerFailed | None) -> str:
    return "failed" if isinstance(failure, WorkerFailed) else "lost"
