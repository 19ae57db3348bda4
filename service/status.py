"""The status of a worker, and of a gateway for clients of bert-serving-server's HTTP API: the fields of SHOW_CONFIG and
SHOW_STATUS, and some more.

Dashboards and clients read them by name, so all genuine fields exist; those about its internals are empty.
"""

from __future__ import annotations

import platform
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import zmq

from service import __version__
from service.wire import SERVER_VERSION

MAX_CLIENTS = 500  # counted individually, as by the genuine server; older ones are only a number
ACTIVE_S = 180.0
MAX_SIZES = 10_000
INTERVALS = 200


class Status:
    def __init__(self, flags: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        """`flags` have the genuine names; `model` describes the model, which the genuine server does not report."""
        self._static = {
            **flags,
            "device_map": [],
            "ventilator -> worker": [],
            "worker -> sink": "",
            "ventilator <-> sink": "",
            "num_process": 1,
            "num_concurrent_socket": 1,
            "tensorflow_version": [],
            "python_version": platform.python_version(),
            "server_version": SERVER_VERSION,
            "pyzmq_version": zmq.pyzmq_version(),
            "zmq_version": zmq.zmq_version(),
            "server_start_time": str(datetime.now()),
            "danmaku_version": __version__,
            **model,
        }
        self._started = time.monotonic()
        self._clients: OrderedDict[bytes, int] = OrderedDict()  # number of requests by client, the latest last
        self._forgotten_clients = 0
        self._active: OrderedDict[bytes, float] = OrderedDict()
        self._sizes: set[int] = set()  # distinct numbers of texts in a request
        self._num_data = self._num_system = self._num_texts = 0
        self._intervals: deque[float] = deque(maxlen=INTERVALS)
        self._last_request = time.monotonic()
        self.refused: Counter[str] = Counter()  # invalid messages, by reason

    def count_command(self, client: bytes) -> None:
        self._count(client)
        self._num_system += 1

    def count_texts(self, client: bytes, num_texts: int) -> None:
        self._count(client)
        self._num_data += 1
        self._num_texts += num_texts
        if len(self._sizes) < MAX_SIZES:
            self._sizes.add(num_texts)
        now = time.monotonic()
        self._intervals.append(now - self._last_request)
        self._last_request = now
        self._active[client] = now
        self._active.move_to_end(client)
        while len(self._active) > MAX_CLIENTS:
            self._active.popitem(last=False)

    def active_clients(self) -> int:
        now = time.monotonic()
        return sum(now - last < ACTIVE_S for last in self._active.values())

    def config(self, client: bytes) -> dict[str, Any]:
        return {
            "client": client.decode("ascii", "replace"),
            "server_current_time": str(datetime.now()),
            **self._static,
        }

    def status(self, client: bytes, *, in_progress: int, obstacle: str | None) -> dict[str, Any]:
        """Returns the fields of SHOW_STATUS.

        `in_progress`: requests that are not answered yet; `obstacle`: why texts sent now would not be encoded, or None.
        """
        now = time.monotonic()
        statistic = {
            "num_data_request": self._num_data,
            "num_total_seq": self._num_texts,
            "num_sys_request": self._num_system,
            "num_total_request": self._num_data + self._num_system,
            "num_total_client": self._forgotten_clients + len(self._clients),
            "num_active_client": self.active_clients(),
            **_spread("request_per_client", self._clients.values()),
            **_spread("size_per_request", self._sizes, average=self._num_texts / max(1, self._num_data)),
            **_spread("last_two_interval", self._intervals),
            **_spread("request_per_second", [1 / interval for interval in self._intervals if interval > 0]),
            "num_refused": dict(self.refused),
        }
        own = {"statistic": statistic, "in_progress": in_progress, "obstacle": obstacle}
        return {**self.config(client), **own, "uptime_s": now - self._started}

    def _count(self, client: bytes) -> None:
        self._clients[client] = self._clients.pop(client, 0) + 1
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
            self._forgotten_clients += 1


def _spread(name: str, values: Collection[float], average: float | None = None) -> dict[str, float]:
    if not values:
        return {}
    least, most = min(values), max(values)
    return {
        f"avg_{name}": sum(values) / len(values) if average is None else average,
        f"min_{name}": least,
        f"max_{name}": most,
        f"num_min_{name}": sum(value == least for value in values),
        f"num_max_{name}": sum(value == most for value in values),
    }
