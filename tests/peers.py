"""Programs that speak bert-as-service's protocol frame by frame, to send what no genuine client or worker would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import numpy as np
import orjson
import zmq
import zmq.asyncio
from processes import RunningWorker, free_ports

from service import wire


class Peer:
    """Sends and receives frames that the genuine client would not send."""

    def __init__(self, worker: RunningWorker, identity: bytes, *, subscribe: bytes | None = None) -> None:
        self.context = zmq.Context()
        self.requests = self.context.socket(zmq.PUSH)
        self.answers = self.context.socket(zmq.SUB)
        self.identity = identity
        self.answers.subscribe(identity if subscribe is None else subscribe)
        self.answers.connect(f"tcp://127.0.0.1:{worker.port_out}")
        self.requests.connect(f"tcp://127.0.0.1:{worker.port}")

    def send(self, *frames: bytes) -> None:
        self.requests.send_multipart(frames)

    def receive(self, timeout_s: float = 60) -> wire.VectorsReply | wire.ErrorReply | wire.JsonReply | None:
        if not self.answers.poll(timeout_s * 1000):
            return None
        return wire.read_reply(self.answers.recv_multipart())

    def encode(self, texts: wire.Texts, request_id: int = 1) -> np.ndarray:
        self.requests.send_multipart(wire.write_encode(self.identity, request_id, texts))
        reply = self.receive()
        assert isinstance(reply, wire.VectorsReply) and reply.request_id == request_id, reply
        return reply.array


@contextmanager
def peer(worker: RunningWorker, identity: bytes = b"", **settings: bytes) -> Iterator[Peer]:
    """A client under a name of its own, because answers may be lost if the last one of that name has only just left."""
    it = Peer(worker, identity or uuid4().hex.encode(), **settings)
    try:
        yield it
    finally:
        it.context.destroy(linger=0)


def client_status(worker: RunningWorker) -> dict[str, object]:
    with peer(worker) as it:
        it.requests.send_multipart(wire.write_command(it.identity, 1, wire.SHOW_STATUS))
        reply = it.receive()
    assert isinstance(reply, wire.JsonReply)
    return reply.values


GENUINE = {
    **{"server_version": "1.10.0", "num_worker": 1, "model_dir": "/models/some", "ckpt_name": "bert_model.ckpt"},
    **{"max_seq_len": 25, "do_lower_case": True, "pooling_layer": [-2], "pooling_strategy": 2},
}


class ScriptedWorker:
    """An async context manager: a server with PULL and PUB sockets that describes itself as configured.

    A text's vector is [its length, the sum of its code points]; `reply` may be replaced by a function that returns
    the frames between topic and request id, or None for silence. While `gate` is cleared, texts wait.
    """

    def __init__(self, host: str = "127.0.0.1", ports: tuple[int, int] | None = None, **config: object) -> None:
        self.host, (self.port, self.port_out) = host, ports or free_ports(2)
        self.config = GENUINE | config
        self.gate = asyncio.Event()
        self.gate.set()
        self.reply: Callable[[list[str]], list[bytes] | None] = self.vectors
        self.asked: list[list[str]] = []
        self.commands: set[bytes] = set()

    @property
    def url(self) -> str:
        return f"bert://{self.host}:{self.port}:{self.port_out}"

    @property
    def batches(self) -> list[list[str]]:
        """The batches sent to it, except the one by which a gateway learns the dimension."""
        return [texts for texts in self.asked if texts != ["a"]]

    @staticmethod
    def vector(text: str) -> list[float]:
        return [float(len(text)), float(sum(map(ord, text)))]

    def vectors(self, texts: list[str]) -> list[bytes]:
        array = np.array([self.vector(text) for text in texts], np.float32)
        return wire.write_vectors(b"", b"", array)[1:3]

    async def __aenter__(self) -> ScriptedWorker:
        self.context = zmq.asyncio.Context()
        self.requests, self.answers = self.context.socket(zmq.PULL), self.context.socket(zmq.PUB)
        self.answers.bind(f"tcp://{self.host}:{self.port_out}")
        self.requests.bind(f"tcp://{self.host}:{self.port}")
        self.tasks = [asyncio.create_task(self.serve())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        self.context.destroy(linger=0)

    async def serve(self) -> None:
        while True:
            client, message, request_id, _ = await self.requests.recv_multipart()
            if message.startswith(b"["):
                self.asked.append(orjson.loads(message))
                self.tasks.append(asyncio.create_task(self.answer(client, self.asked[-1], request_id)))
            else:
                self.commands.add(message)
                await self.answers.send_multipart([client, orjson.dumps(self.config), request_id])

    async def answer(self, client: bytes, texts: list[str], request_id: bytes) -> None:
        if texts != ["a"]:
            await self.gate.wait()
        if (frames := self.vectors(texts) if texts == ["a"] else self.reply(texts)) is not None:
            await self.answers.send_multipart([client, *frames, request_id])
