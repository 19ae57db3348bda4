"""Every expression of monitoring/ is evaluated by a real Prometheus that has scraped a real installation under load:
a gateway, two workers and a Redis.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import orjson
import pytest
from load import some_texts
from pages import train_head
from processes import ROOT, RunningWorker, free_ports, running_redis, serving, working
from prometheus import RunningPrometheus, expressions, panels, program, running_prometheus, wait_for, with_variables

from service.commands.bench.load import Request, open_load
from service.metrics import SECONDS

TEXTS_A_REQUEST = 48
REQUESTS = 80
CALLERS = 4
KEY = "a key of the tests"


@dataclass
class Installation:
    prometheus: RunningPrometheus
    workers: list[RunningWorker]
    seconds: list[float]  # as callers saw them, of requests for vectors


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation that was under load until a moment ago, and was scraped meanwhile."""
    program("prometheus")  # or there is no need to start the others
    directory = tmp_path_factory.mktemp("monitoring")
    ports = free_ports(2)
    model = ROOT / "models" / "danmaku-bert-mini"
    with ExitStack() as stack:
        redis = stack.enter_context(running_redis())
        length = ("-max_seq_len", "64")  # as the gateway's, for the sake of the head
        workers = [stack.enter_context(working(model, *length, "-metrics_port", str(port))) for port in ports]
        encoder = "bert://" + ",".join(worker.url.removeprefix("bert://") for worker in workers)
        keys = directory / "keys.toml"
        keys.write_text(f'[bot]\nhash = "{hashlib.sha256(KEY.encode()).hexdigest()}"\n', encoding="utf-8")
        flags = ("--cache", redis.url, "--collections", f"sqlite:///{directory}/collections")
        settings = ("--api-keys-file", str(keys), "--heads", str(train_head(directory)))
        http, _ = stack.enter_context(serving(*flags, *settings, model=encoder))
        http.headers["Authorization"] = f"Bearer {KEY}"
        targets = {
            "danmaku-gateway": [f"{http.base_url.host}:{http.base_url.port}"],
            "danmaku-worker": [f"127.0.0.1:{port}" for port in ports],
        }
        prometheus = stack.enter_context(running_prometheus(directory, targets))
        wait_for(lambda: len(prometheus.query("danmaku_build_info or danmaku_worker_build_info")) == 3)
        installation = Installation(prometheus, workers, [])
        send_all_kinds(http, installation)
        asyncio.run(many(str(http.base_url), installation))
        asked = 'sum(danmaku_requests_total{route=~"/embed|/similar"})'
        wait_for(lambda: prometheus.value(asked) == len(installation.seconds))
        wait_for(lambda: all(prometheus.query(f"danmaku:{name}:increase1h") for name in ("unanswered", "slow")))
        yield installation


def send_all_kinds(http: httpx.Client, installation: Installation) -> None:
    """Sends a request of each kind that is counted."""

    def ask(path: str, body: object, status: int = 200) -> None:
        started = time.perf_counter()
        answer = http.post(path, json=body)
        installation.seconds.append(time.perf_counter() - started)
        assert answer.status_code == status, answer.text

    ask("/embed", ["草", "awsl", " ", "草" * 200])
    ask("/embed", ["草", "awsl"])
    ask("/embed", {}, 422)
    assert http.post("/classify", json={"texts": ["草"]}).status_code == 200
    assert http.post("/merge", json={"lines": [{"text": "草", "time": 1.0}]}).status_code == 200
    assert http.put("/collections/room").status_code == 200
    assert http.post("/collections/room/danmaku", json=[{"text": "阿夸"}]).status_code == 200
    ask("/similar", {"query": "aqua", "collection": "room"})


async def many(url: str, installation: Installation) -> None:
    """Returns lists of texts, a third of which repeat; long enough that a short pause of the machine matters little."""
    texts, values = some_texts(4000), random.Random(1)
    lists = [values.choices(texts, k=TEXTS_A_REQUEST) for _ in range(REQUESTS)]
    requests = (Request(orjson.dumps({"texts": these}), len(these)) for these in lists)
    async with open_load(url, KEY, timeout_s=60) as load:
        await load.run_closed_loop(requests, CALLERS)
    assert load.result.requests == len(load.result.seconds) == REQUESTS
    installation.seconds += load.result.seconds


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_returns_data(installation: Installation, expression: str) -> None:
    assert installation.prometheus.query(expression)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_a_percentile_is_what_callers_saw(installation: Installation, quantile: float) -> None:
    """The panel's expression agrees, within a bucket, with the times of the load generator."""
    (panel,) = [panel for panel in panels() if panel["title"] == "Latency of requests for vectors"]
    (expression,) = [t["expr"] for t in panel["targets"] if f"histogram_quantile({quantile}," in t["expr"]]
    shown = installation.prometheus.value(with_variables(expression))
    seen = statistics.quantiles(installation.seconds, n=100, method="inclusive")[round(100 * quantile) - 1]

    assert abs(bisect_left(SECONDS, shown) - bisect_left(SECONDS, seen)) <= 1, f"{shown} s shown, {seen} s seen"


def test_work_is_counted_once(installation: Installation) -> None:
    """Gateways and workers agree; a slow batch may be sent to a second worker, too."""
    query = installation.prometheus.value
    hits = query('sum(danmaku_cache_lookups_total{result="hit"})')
    looked_up = query('sum(danmaku_cache_lookups_total{tier="memory"})')
    encoded = query("sum(danmaku_batch_texts_sum)")

    assert query('sum(danmaku_requests_total{route="/embed", outcome="ok"})') == REQUESTS + 2
    assert query('sum(danmaku_requests_total{route="/embed", outcome="invalid"})') == 1
    assert 0 < encoded <= looked_up - hits  # a text that is on its way already is not encoded again
    assert query("sum(danmaku_worker_texts_total)") >= encoded
    assert query("sum(danmaku_worker_batch_texts_sum)") >= encoded
    assert query('sum(danmaku_worker_requests_total{outcome="ok"})') >= query("sum(danmaku_encode_seconds_count)")


def test_dashboard_variables_list_all_instances(installation: Installation) -> None:
    for series, count in (("danmaku_build_info", 1), ("danmaku_worker_build_info", 2)):
        assert len({labels["instance"] for labels, _ in installation.prometheus.query(series)}) == count


def test_a_lost_worker_raises_alerts(installation: Installation) -> None:
    """This is the last test, because alerts wait for their time."""
    assert not {"DanmakuWorkerLost", "DanmakuProcessDown", "DanmakuDown"} & installation.prometheus.alerts()
    installation.workers[0].kill()

    wait_for(lambda: {"DanmakuWorkerLost", "DanmakuProcessDown"} <= installation.prometheus.alerts())
    assert "DanmakuDown" not in installation.prometheus.alerts()
