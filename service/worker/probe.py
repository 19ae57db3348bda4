"""The health check behind `danmaku check bert://…`, for our workers and genuine bert-serving-servers.

It requests the status, not a vector: a busy worker is healthy, and a probe that queued behind its work would get it
killed. Our worker's status includes what would keep it from encoding; a genuine one is healthy if it answers.
"""

from __future__ import annotations

import uuid

import zmq

from service import wire
from service.errors import EncoderUnavailable


def probe(url: str, timeout_s: float) -> str:
    """Returns a line about a healthy worker. Raises EncoderUnavailable otherwise, ValueError for an invalid URL."""
    host, port, port_out = wire.parse_address(url)
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
    if not isinstance(reply, wire.JsonReply) or "server_version" not in reply.values:
        raise EncoderUnavailable("invalid answer; expected a worker's status")

    if obstacle := reply.values.get("obstacle"):
        raise EncoderUnavailable(obstacle)
    model = reply.values.get("model") or reply.values.get("model_dir")
    return f"ready: {model}, bert-serving-server {reply.values['server_version']}"
