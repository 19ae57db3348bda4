"""Measures a worker's memory over an hour's worth of requests: 720,000 texts (200/s), sent as fast as it answers.

Eight clients send lists of 1 to 16 texts, all different, so that no text is already in flight. The
resident memory is printed after every tenth; a leak would show as a slope.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from bert_serving.client import BertClient

ROOT = Path(__file__).parents[1]
CLIENTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, default=ROOT / "models/danmaku-bert-mini")
    parser.add_argument("--texts", type=int, default=720_000)
    arguments = parser.parse_args()
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    port, port_out = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    command = [sys.executable, "-m", "service", "worker", "-model_dir", str(arguments.model_dir)]
    worker = subprocess.Popen([*command, "-port", str(port), "-port_out", str(port_out)], cwd=ROOT)
    process = psutil.Process(worker.pid)
    words = (ROOT / "training/pictures/words.txt").read_text(encoding="utf-8").split()
    counted = threading.Lock()
    sent, shown, started = 0, 0, time.perf_counter()

    def client(number: int) -> None:
        nonlocal sent, shown
        with BertClient(port=port, port_out=port_out, timeout=60_000, check_length=False) as asking:
            while True:
                with counted:
                    first, size = sent, 1 + sent % 16
                    if first >= arguments.texts:
                        return
                    sent += size
                    if sent * 10 // arguments.texts > shown:
                        shown += 1
                        rate = sent / (time.perf_counter() - started)
                        resident = process.memory_info().rss / 2**20
                        print(f"{sent:9,} texts, {rate:6,.0f} texts/s, {resident:6,.1f} MiB", flush=True)
                asking.encode([f"{words[n % len(words)]}{n}" for n in range(first, first + size)])

    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(client, range(CLIENTS)))
    finally:
        worker.terminate()
        worker.wait(timeout=60)


if __name__ == "__main__":
    main()
