"""The health check behind `danmaku check bert://…`, for our workers and genuine bert-serving-servers.

It requests the status, not a vector: a busy worker is healthy, and a probe that queued behind its work would get it
killed. Our worker's status includes any obstacle to encoding; a genuine worker is healthy if it answers.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from pathlib import Path

import zmq

from service import wire
from service.errors import EncoderUnavailable
from service.worker_key import present_key


def probe(url: str, timeout_s: float, key_file: Path | None = None) -> str:
    """Returns a line about a healthy worker.

    Raises EncoderUnavailable otherwise, ValueError for an invalid URL, ConfigurationError for an invalid key file.
    """
    host, port, port_out = wire.parse_address(url)
    identity = str(uuid.uuid4()).encode()
    options = present_key(key_file) if key_file else {}
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        context.sockopts.update(options | {zmq.LINGER: 0})
        requests, answers = (stack.enter_context(context.socket(kind)) for kind in (zmq.PUSH, zmq.SUB))
        answers.subscribe(identity)
        answers.connect(f"tcp://{host}:{port_out}")
        requests.connect(f"tcp://{host}:{port}")
        requests.send_multipart(wire.write_command(identity, 1, wire.SHOW_STATUS))
        if not answers.poll(int(timeout_s * 1000)):
            raise EncoderUnavailable(f"no answer within {timeout_s:g} s{wire.advise(host)}")
        reply = wire.read_reply(answers.recv_multipart())
    if not isinstance(reply, wire.JsonReply) or "server_version" not in reply.values:
        raise EncoderUnavailable("invalid answer; expected a worker's status")

    if obstacle := reply.values.get("obstacle"):
        raise EncoderUnavailable(obstacle)
    model = reply.values.get("model") or reply.values.get("model_dir")
    return f"ready: {model}, bert-serving-server {reply.values['server_version']}"
