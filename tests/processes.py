"""Real processes for tests to talk to."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import pytest
import redis
from bert_serving.client import BertClient

from service.errors import EncoderUnavailable
from service.worker.probe import probe

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class RunningWorker:
    port: int
    port_out: int
    http_port: int
    process: subprocess.Popen[str]
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        return f"bert://{self.host}:{self.port}:{self.port_out}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self, **settings: object) -> BertClient:
        """Opens the genuine client, with a generous time limit."""
        return BertClient(port=self.port, port_out=self.port_out, **({"timeout": 20_000} | settings))


@contextmanager
def working(
    model_dir: Path, *flags: str, ports: Sequence[int] | None = None, host: str = "127.0.0.1"
) -> Iterator[RunningWorker]:
    """Runs a worker in a process of its own until it is ready; ends it with SIGTERM if it still runs."""
    port, port_out, http_port = (*ports, *free_ports(1)) if ports else free_ports(3)
    command = [sys.executable, "-m", "service", "worker", "-model_dir", str(model_dir), *flags]
    command += ["-port", str(port), "-port_out", str(port_out), "-http_port", str(http_port), "-bind", host]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    worker = RunningWorker(port, port_out, http_port, process, host)
    try:
        for _ in range(120):
            if process.poll() is not None:
                raise RuntimeError(f"the worker ended: {process.communicate()[1]}")
            try:
                probe(worker.url, timeout_s=0.5)
                break
            except EncoderUnavailable:
                continue
        else:
            raise RuntimeError("the worker was not ready within a minute")
        yield worker
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a stopped one does not end
            process.terminate()
        process.communicate(timeout=60)


@contextmanager
def genuine(python: str, model_dir: Path, *flags: str) -> Iterator[RunningWorker]:
    """Runs a genuine bert-serving-server with the Python of a `make classic` environment until it is ready."""
    port, port_out, http_port = free_ports(3)
    command = [python, "service/classic.py", "-model_dir", str(model_dir), "-cpu", *flags]
    command += ["-port", str(port), "-port_out", str(port_out)]
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would fill up and stop it
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log, text=True)
        server = RunningWorker(port, port_out, http_port, process)
        try:
            _wait_for_genuine(server, log)
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=60)


def _wait_for_genuine(server: RunningWorker, log: IO[str]) -> None:
    deadline = time.monotonic() + 180  # it freezes its graph, and imports TensorFlow three times
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            probe(server.url, timeout_s=0.5)
            return
        except EncoderUnavailable:
            continue
    log.seek(0)
    raise RuntimeError(f"the genuine server did not start: {log.read()[-2000:]}")


@dataclass(frozen=True)
class RunningRedis:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


@contextmanager
def running_redis(*flags: str, port: int | None = None, program: str | None = None) -> Iterator[RunningRedis]:
    """Runs an empty Redis of any version in a process of its own, without persistence."""
    program = program or shutil.which("redis-server")
    assert program, "redis-server is not installed; on Debian: apt-get install redis-server"
    (port,) = [port] if port else free_ports(1)
    command = [program, "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", *flags]
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            else:
                raise RuntimeError("redis-server did not start")
            yield RunningRedis(port, process)
        finally:
            process.send_signal(signal.SIGCONT)  # a stopped one does not end
            process.kill()
            process.wait(timeout=20)


@contextmanager
def running_redis8(*flags: str, port: int | None = None) -> Iterator[RunningRedis]:
    """Like `running_redis`, with version 8 or newer: an installed one, or that of `make redis8`. Skips
    without either.
    """
    found = subprocess.run([ROOT / "tests" / "redis8.sh", "--find"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    with running_redis(*flags, port=port, program=found.stdout.strip()) as server:
        yield server


@contextmanager
def running_redis_cluster() -> Iterator[list[RunningRedis]]:
    """Runs a Redis Cluster of three processes, which share the slots equally."""
    ports = free_ports(6)
    with contextlib.ExitStack() as stack:
        nodes = []
        for port, bus in zip(ports[:3], ports[3:], strict=True):  # its usual bus, port + 10000, may be beyond 65535
            # A quick timeout: the nodes wait for as long before they call the cluster whole.
            flags = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "500")
            nodes.append(stack.enter_context(running_redis8(*flags, port=port)))
        clients = [stack.enter_context(redis.Redis.from_url(node.url)) for node in nodes]
        for client, first, last in zip(clients, (0, 5461, 10922), (5460, 10921, 16383), strict=True):
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for port, bus in zip(ports[1:3], ports[4:], strict=True):
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port, bus)
        deadline = time.monotonic() + 60
        while not all(_knows_three(client) for client in clients):
            if time.monotonic() > deadline:
                raise RuntimeError("the Redis Cluster did not form within a minute")
            time.sleep(0.02)
        for client in clients:
            client.config_set("cluster-node-timeout", 60_000)  # a busy machine is no reason to declare one dead
        yield nodes


def _knows_three(client: redis.Redis) -> bool:
    facts = client.execute_command("CLUSTER INFO")
    return facts["cluster_state"] == "ok" and facts["cluster_known_nodes"] == "3"


def free_ports(count: int) -> list[int]:
    """Returns free ports below those of outgoing connections and reserved for this process of pytest-xdist."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000 + number, 32_000, 8)
        with contextlib.suppress(OSError), socket.socket() as probe_socket:
            probe_socket.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


@contextmanager
def serving(
    *flags: str,
    model: str = "onnx://models/danmaku-bert-mini",
    variables: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    port: int | None = None,
) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """Runs a gateway in a process of its own until it is ready; ends it with SIGTERM if it still runs."""
    (port,) = [port] if port else free_ports(1)
    command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--encoder", model, *flags]
    environment = os.environ | (variables or {})
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process)
            yield client, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the gateway ended: {process.communicate()[1]}")
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError("the gateway was not ready within a minute")
