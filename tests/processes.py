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
from bert_serving.client import BertClient

from service.errors import EncoderUnavailable
from service.worker.probe import probe

ROOT = Path(__file__).parents[1]
START_S = 120.0  # for a process to start, on a machine that is busy


def hang(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Stops a process, and returns when all its threads have stopped. SIGCONT lets it continue."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


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
        return BertClient(port=self.port, port_out=self.port_out, **({"timeout": 60_000} | settings))


@contextmanager
def working(
    model_dir: Path,
    *flags: str,
    ports: Sequence[int] | None = None,
    host: str = "127.0.0.1",
    key_file: Path | None = None,
) -> Iterator[RunningWorker]:
    """Runs a worker in a process of its own until it is ready; ends it with SIGTERM if it still runs."""
    port, port_out, http_port = (*ports, *free_ports(1)) if ports else free_ports(3)
    command = [sys.executable, "-m", "service", "worker", "-model_dir", str(model_dir), *flags]
    command += ["-port", str(port), "-port_out", str(port_out), "-http_port", str(http_port), "-bind", host]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    worker = RunningWorker(port, port_out, http_port, process, host)
    try:
        deadline = time.monotonic() + START_S
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the worker ended: {process.communicate()[1]}")
            try:
                probe(worker.url, timeout_s=2, key_file=key_file)
                break
            except EncoderUnavailable:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the worker was not ready within {START_S:g} s") from None
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
    command = [python, "-m", "service.classic", "-model_dir", str(model_dir), "-cpu", *flags]
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
def running_redis(*flags: str, port: int | None = None) -> Iterator[RunningRedis]:
    """Runs an empty Redis in a process of its own, without persistence."""
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed; on Debian: apt-get install redis-server"
    (port,) = [port] if port else free_ports(1)
    command = [program, "--port", str(port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", *flags]
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_S
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("redis-server did not start")
                time.sleep(0.02)
            yield RunningRedis(port, process)
        finally:
            process.send_signal(signal.SIGCONT)  # a stopped one does not end
            process.kill()
            process.wait(timeout=60)


@dataclass
class RunningMilvus:
    """A Milvus with the settings and data of a folder, which can be killed and started again."""

    folder: Path
    settings: dict[str, str]
    program: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"milvus://127.0.0.1:{self.settings['PROXY_PORT']}/danmaku"

    def restart(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)
        self.process = _start_milvus(self.folder, self.settings, self.program)


@contextmanager
def running_milvus(folder: Path, **settings: str) -> Iterator[RunningMilvus]:
    """Runs an empty Milvus in a process of its own, with the ticks of a fast one. Skips without that of `make milvus`.

    A setting is a key of milvus.yaml: PROXY_PORT is `proxy.port`.
    """
    found = subprocess.run([ROOT / "tests" / "milvus.sh", "--find"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    server = Path(found.stdout.strip())
    names = ("PROXY", "ROOTCOORD", "QUERYCOORD", "QUERYNODE", "INDEXCOORD", "INDEXNODE", "DATACOORD", "DATANODE")
    *ports, internal, metrics, etcd, peer = (str(port) for port in free_ports(len(names) + 4))
    (folder / "etcd.yaml").write_text(
        f"name: default\ndata-dir: {folder}/etcd\nlog-outputs: [{folder}/etcd.log]\n"
        f"listen-client-urls: http://127.0.0.1:{etcd}\nadvertise-client-urls: http://127.0.0.1:{etcd}\n"
        f"listen-peer-urls: http://127.0.0.1:{peer}\ninitial-advertise-peer-urls: http://127.0.0.1:{peer}\n"
        f"initial-cluster: default=http://127.0.0.1:{peer}\n"
    )
    settings = {
        "LD_LIBRARY_PATH": f"{server}/bin",
        "MILVUSCONF": f"{server}/configs",
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": metrics,
        "ETCD_CONFIG_PATH": f"{folder}/etcd.yaml",
        "ETCD_DATA_DIR": f"{folder}/etcd",
        "ETCD_ENDPOINTS": f"127.0.0.1:{etcd}",
        "LOCALSTORAGE_PATH": f"{folder}/data",
        "ROCKSMQ_PATH": f"{folder}/rocksmq",
        "LOG_LEVEL": "error",
        "LOG_FILE_ROOTPATH": "",
        "PROXY_TIMETICKINTERVAL": "20",
        "QUERYNODE_SEGCORE_INTERIMINDEX_NPROBE": "48",
        "PROXY_INTERNALPORT": internal,
        "COMMON_SESSION_TTL": "60",  # without a sign of life for as long, on a busy machine, it ends itself
        **{f"{name}_PORT": port for name, port in zip(names, ports, strict=True)},
        **settings,
    }
    running = RunningMilvus(
        folder, settings, server / "bin" / "milvus", _start_milvus(folder, settings, server / "bin" / "milvus")
    )
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(timeout=60)


def _start_milvus(folder: Path, settings: dict[str, str], program: Path) -> subprocess.Popen[bytes]:
    with (folder / "milvus.log").open("ab") as log:
        process = subprocess.Popen(
            [program, "run", "standalone"], cwd=folder, env=os.environ | settings, stdout=log, stderr=log
        )
    health = f"http://127.0.0.1:{settings['METRICS_PORT']}/healthz"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(health).text == "OK":
                return process
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"Milvus did not start; {folder}/milvus.log says why")


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
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the gateway ended: {process.communicate()[1]}")
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"the gateway was not ready within {START_S:g} s")
