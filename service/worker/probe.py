"""Asks a worker, ours or a genuine bert-serving-server, how it is: the health check behind `danmaku check bert://…`.

It asks for the status rather than for a vector: a busy worker is well, and a probe that queues up behind its work would
have it killed. Ours says of itself what would keep it from encoding; of a genuine one an answer is all there is.
"""

from __future__ import annotations

import uuid

import zmq

from service import wire
from service.errors import EncoderUnavailable


def probe(url: str, timeout_s: float) -> str:
    """A line about a worker that is well. Raises EncoderUnavailable for one that is not, ValueError for a wrong URL."""
    host, port, port_out = wire.worker_address(url)
    identity = str(uuid.uuid4()).encode()
    with zmq.Context() as context, context.socket(zmq.PUSH) as requests, context.socket(zmq.SUB) as answers:
        for socket in (requests, answers):
            socket.linger = 0
        answers.subscribe(identity)
        answers.connect(f"tcp://{host}:{port_out}")
        requests.connect(f"tcp://{host}:{port}")
        requests.send_multipart(wire.write_command(identity, 1, wire.SHOW_STATUS))
        if not answers.poll(int(timeout_s * 1000)):
            raise EncoderUnavailable(f"no answer within {timeout_s:g} s")
        reply = wire.read_reply(answers.recv_multipart())
    if not isinstance(reply, wire.Content) or "server_version" not in reply.values:
        raise EncoderUnavailable("it answers, but not as a worker does")
    if obstacle := reply.values.get("obstacle"):
        raise EncoderUnavailable(obstacle)
    model = reply.values.get("model") or reply.values.get("model_dir")
    return f"ready: {model}, bert-serving-server {reply.values['server_version']}"
