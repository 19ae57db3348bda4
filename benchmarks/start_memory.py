"""Measures the memory of a gateway and a worker from start to first answer, with the bundled model and BERT-base.

It prints for each precision: the weights; the peak of the process's own memory, which a limit must allow; the peak with
pages of files, which the system reclaims under pressure; and the resident memory after the answer. BERT-base has random
weights and the bundled vocabulary. With --limit, each runs in a memory control group with that limit, and it is printed
whether it starts or is killed; this needs root and cgroup v1 or v2.

    .venv/bin/python benchmarks/start_memory.py --limit 512
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from gateway import connect, free_port, post
from material import ROOT, random_base_model

from service.encoders.options import PRECISIONS
from service.worker.probe import probe

CGROUPS = Path("/sys/fs/cgroup")
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, metavar="MIB", help="limit of the control group")
    parser.add_argument("--precision", nargs="+", default=["float32", "int8"], choices=PRECISIONS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        models = {"bundled": ROOT / "models/danmaku-bert-mini", "BERT-base": random_base_model(Path(directory))}
        for name, path in models.items():
            weights = sum(file.stat().st_size for file in path.glob("*.data-*")) / MIB
            print(f"{name}, {weights:,.0f} MiB of weights")
            for precision in arguments.precision:
                for role, command in (("gateway", gateway(path, precision)), ("worker", worker(path, precision))):
                    print(f"  {role}, {precision}: {measure(role, command, arguments.limit)}", flush=True)


def gateway(model: Path, precision: str) -> list[str]:
    return f"serve --encoder onnx://{model} --precision {precision} --collections none --port".split()


def worker(model: Path, precision: str) -> list[str]:
    flags = f"-model_dir {model} -precision {precision} -max_seq_len NONE -num_worker {os.cpu_count()}"
    return f"worker {flags} -port_out {free_port()} -port".split()


def measure(role: str, command: list[str], limit: int | None) -> str:
    port = free_port()
    with control_group(limit) as join:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", *command, str(port)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=join,
        )
        peak = Peak(process.pid)
        try:
            answer(role, command, port, process)
            if process.poll() is not None:
                return f"ended with {process.returncode}"
            return peak.describe() + (f"; starts with a limit of {limit} MiB" if limit else "")
        finally:
            peak.stop()
            process.kill()
            process.wait()


def answer(role: str, command: list[str], port: int, process: subprocess.Popen[bytes]) -> None:
    """Returns after the first answer, or the end of the process."""
    while process.poll() is None:
        with contextlib.suppress(Exception):
            if role == "worker":
                port_out = command[command.index("-port_out") + 1]
                return probe(f"bert://127.0.0.1:{port}:{port_out}", timeout_s=5)
            post(connect(port), ["草"])
            return
        time.sleep(0.1)


class Peak:
    """Watches a process, because the kernel records the peak of all its memory, but not of its own memory."""

    def __init__(self, pid: int) -> None:
        self._pid, self._own, self._stopped = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def describe(self) -> str:
        found = self._read()
        own, whole = max(self._own, found["RssAnon"]) / 1024, found["VmHWM"] / 1024
        resident = psutil.Process(self._pid).memory_info().rss / MIB
        return f"peak {own:,.0f} MiB, {whole:,.0f} with pages of files; then {resident:,.0f}"

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        with contextlib.suppress(OSError, KeyError):  # it has ended
            while not self._stopped.wait(0.005):
                self._own = max(self._own, self._read()["RssAnon"])

    def _read(self) -> dict[str, int]:
        lines = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8").splitlines()
        return {
            name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines) if rest.endswith(" kB")
        }


@contextlib.contextmanager
def control_group(limit: int | None) -> Iterator[object]:
    """Yields a function that makes a child join a new group with a memory limit and no swap."""
    if limit is None:
        yield None
        return
    v1 = CGROUPS / "memory"
    parent, name = (v1, "memory.limit_in_bytes") if v1.is_dir() else (CGROUPS, "memory.max")
    group = parent / f"danmaku-{os.getpid()}"
    group.mkdir()
    try:
        (group / name).write_text(str(limit * MIB), encoding="utf-8")
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")
    finally:
        group.rmdir()


if __name__ == "__main__":
    main()
