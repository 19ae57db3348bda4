"""Captures the frames of the genuine bert-serving-client and server 1.10, for tests/service/test_wire.py.

    make classic
    .venv-classic/bin/python tests/classic/capture_frames.py > tests/data/wire/frames.json

A relay between the two records every frame in base64. Run it again only if there is a reason to doubt the file: the
versions are of 2019, so its content cannot change.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from pathlib import Path

import zmq
from bert_serving.client import BertClient

ROOT = Path(__file__).parents[2]
SERVER = (17555, 17556)
RELAY = (17557, 17558)


def main() -> None:
    command = [sys.executable, "-m", "service.classic", "-model_dir", "models/danmaku-bert-mini"]
    command += ["-ckpt_name", "model.ckpt-6000", "-cpu", "-show_tokens_to_client"]
    command += ["-port", str(SERVER[0]), "-port_out", str(SERVER[1])]
    captured: dict[str, list[list[str]]] = {"requests": [], "answers": []}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stderr is not None
        for line in server.stderr:
            if "all set" in line:
                break
        context = zmq.Context()
        threading.Thread(target=relay, args=(context, captured), daemon=True).start()
        with BertClient(port=RELAY[0], port_out=RELAY[1], identity=b"captured", timeout=20_000) as client:
            client.encode(["草", "awsl 晚安"], show_tokens=True)
            client.encode([["草", "awsl"], ["未知"]], is_tokenized=True)
            client.server_status  # noqa: B018
            client._send(b"TERMINATION")
            server.communicate(timeout=60)
    json.dump(captured, sys.stdout, indent=1)


def relay(context: zmq.Context, captured: dict[str, list[list[str]]]) -> None:
    requests_in, requests_out = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    answers_in, answers_out = context.socket(zmq.SUB), context.socket(zmq.PUB)
    answers_in.subscribe(b"")
    requests_out.connect(f"tcp://127.0.0.1:{SERVER[0]}")
    answers_in.connect(f"tcp://127.0.0.1:{SERVER[1]}")
    requests_in.bind(f"tcp://127.0.0.1:{RELAY[0]}")
    answers_out.bind(f"tcp://127.0.0.1:{RELAY[1]}")
    poller = zmq.Poller()
    for socket in (requests_in, answers_in):
        poller.register(socket, zmq.POLLIN)
    while True:
        for socket, _ in poller.poll():
            frames = socket.recv_multipart()
            name, target = ("requests", requests_out) if socket is requests_in else ("answers", answers_out)
            captured[name].append([base64.b64encode(frame).decode() for frame in frames])
            target.send_multipart(frames)


if __name__ == "__main__":
    main()
