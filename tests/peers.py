"""Programs that speak bert-as-service's wire frame by frame: what the genuine client would not send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import zmq
from processes import RunningWorker

from service import wire


class Peer:
    """Frames in, frames out: what a program sends that is not the genuine client."""

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

    def receive(self, timeout_s: float = 20) -> wire.Vectors | wire.Failure | wire.Content | None:
        if not self.answers.poll(timeout_s * 1000):
            return None
        return wire.read_reply(self.answers.recv_multipart())

    def encode(self, texts: wire.Texts, request_id: int = 1) -> np.ndarray:
        self.requests.send_multipart(wire.write_encode(self.identity, request_id, texts))
        reply = self.receive()
        assert isinstance(reply, wire.Vectors) and reply.request_id == request_id, reply
        return reply.array


@contextmanager
def peer(worker: RunningWorker, identity: bytes = b"peer", **settings: bytes) -> Iterator[Peer]:
    it = Peer(worker, identity, **settings)
    try:
        yield it
    finally:
        it.context.destroy(linger=0)


def client_status(worker: RunningWorker) -> dict[str, object]:
    with peer(worker, b"status") as it:
        it.requests.send_multipart(wire.write_command(b"status", 1, wire.SHOW_STATUS))
        reply = it.receive()
    assert isinstance(reply, wire.Content)
    return reply.values
