"""`danmaku bench` as users run it: its report matches the requests that the gateway received, and their times."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commands import danmaku as command
from processes import ROOT, free_ports, hang, serving


@pytest.fixture(scope="module")
def gateway(tiny_model: Path) -> Iterator[httpx.Client]:
    with serving("--max-request-texts", "20", model=f"onnx://{tiny_model}") as (http, _):
        yield http


@pytest.fixture
def danmaku(tmp_path: Path) -> Path:
    """100 lines: ten distinct ones, ten times each."""
    path = tmp_path / "danmaku.txt"
    path.write_text("".join(f"{character}好\n" for character in "草哈阿夸晚安来死你他" * 10), encoding="utf-8")
    return path


def figures(http: httpx.Client, danmaku: Path, *flags: str) -> dict:
    path = danmaku.with_name("figures.json")
    done = command("bench", danmaku, "--url", str(http.base_url), "--json", path, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(path.read_bytes()) | {"told": done.stdout}


def lookups(http: httpx.Client, result: str) -> float:
    name = f'danmaku_cache_lookups_total{{result="{result}",tier="memory"}} '
    return next(float(line.split()[1]) for line in http.get("/metrics").text.splitlines() if line.startswith(name))


def test_a_closed_loop_replays_the_whole_file_once(tiny_model: Path, danmaku: Path) -> None:
    """With one caller and ten lines per request, in the file's order, the first request misses ten times, the others
    never.
    """
    with serving(model=f"onnx://{tiny_model}") as (http, _):
        found = figures(http, danmaku, "--concurrency", "1", "--texts-per-request", "10", "--encoding", "float")

    assert (found["requests"], found["answered"], found["errors"], found["refused"]) == (10, 10, {}, 0)
    assert found["hit_rate"] == pytest.approx(0.9)
    assert found["texts_per_s"] == pytest.approx(100 / found["elapsed_s"])
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"] < 1000 * found["elapsed_s"]
    assert "90.0% of look-ups found" in found["told"] and "closed loop, 1 callers, 10 texts each" in found["told"]


def test_the_last_lines_are_a_short_request(gateway: httpx.Client, danmaku: Path) -> None:
    before = sum(lookups(gateway, result) for result in ("hit", "miss"))
    found = figures(gateway, danmaku, "--texts-per-request", "16")

    assert found["requests"] == 7
    assert sum(lookups(gateway, result) for result in ("hit", "miss")) > before
    assert found["texts_per_s"] == pytest.approx(100 / found["elapsed_s"])


def test_an_open_loop_keeps_its_rate(gateway: httpx.Client, danmaku: Path) -> None:
    """The rate does not depend on the gateway: twenty requests, 0.05 s apart, take at least 0.95 s."""
    found = figures(gateway, danmaku, "--rate", "20", "--requests", "20", "--texts-per-request", "2")

    assert (found["loop"], found["requests"], found["concurrency"]) == ("open", 20, None)
    assert found["elapsed_s"] >= 0.95
    assert found["late_ms"]["max"] <= found["latency_ms"]["max"]


def test_time_ends_a_replay(gateway: httpx.Client, danmaku: Path) -> None:
    found = figures(gateway, danmaku, "--rate", "10", "--seconds", "0.45", "--texts-per-request", "1")

    assert 1 <= found["requests"] <= 5


def test_a_stall_delays_all_requests_that_were_due(tiny_model: Path, danmaku: Path) -> None:
    """The gateway stalls for a second: with 40 requests a second, many of them wait long, not one."""
    with serving(model=f"onnx://{tiny_model}") as (http, process):
        path = danmaku.with_name("figures.json")
        call = [sys.executable, "-m", "service", "bench", str(danmaku), "--url", str(http.base_url)]
        flags = ["--rate", "40", "--texts-per-request", "1", "--json", str(path)]
        running = subprocess.Popen([*call, *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            while lookups(http, "hit") + lookups(http, "miss") < 10:
                time.sleep(0.02)
            hang(process)
            time.sleep(1)
        finally:
            process.send_signal(signal.SIGCONT)
            assert running.wait(60) == 0
    found = json.loads(path.read_bytes())

    assert (found["answered"], found["errors"]) == (100, {})
    assert found["latency_ms"]["max"] > 900
    assert found["latency_ms"]["p95"] > 500  # two fifths of the requests were due in that second


def test_errors_are_counted_by_type(gateway: httpx.Client, danmaku: Path) -> None:
    """If nothing was answered, the command fails."""
    path = danmaku.with_name("figures.json")
    done = command("bench", danmaku, "--url", str(gateway.base_url), "--texts-per-request", "50", "--json", path)

    assert done.returncode == 1
    assert "2 too_large; 0 refused, 2 failed" in done.stdout
    assert json.loads(path.read_bytes())["latency_ms"] is None


def test_overload_is_counted_as_refused(tiny_model: Path, danmaku: Path) -> None:
    """The queue has room for one text, and there are thirty callers."""
    limits = ["--max-queue-texts", "1", "--max-request-texts", "1"]
    danmaku.write_text(
        "".join(f"{first}{second}\n" for first in "草哈阿夸晚安来死你他" for second in "草哈阿夸晚安来死你他")
    )
    with serving(*limits, "--threads", "1", model=f"onnx://{tiny_model}") as (http, _):
        found = figures(http, danmaku, "--concurrency", "30", "--texts-per-request", "1")

    assert found["requests"] == 100
    assert found["errors"] == {"overloaded": found["refused"]} and found["refused"] > 0


def test_a_generator_that_cannot_keep_the_rate_says_so(gateway: httpx.Client, danmaku: Path) -> None:
    danmaku.write_text("草\n" * 20_000, encoding="utf-8")
    found = figures(gateway, danmaku, "--rate", "1000000", "--texts-per-request", "10")

    assert found["generator_limits"][0].startswith("it did not reach 1e+06 requests/s")
    assert "the generator may have been the limit: it did not reach" in found["told"]


def test_ctrl_c_reports_what_was_measured(gateway: httpx.Client, danmaku: Path) -> None:
    call = [sys.executable, "-m", "service", "bench", str(danmaku), "--url", str(gateway.base_url)]
    before = lookups(gateway, "hit") + lookups(gateway, "miss")
    running = subprocess.Popen(
        [*call, "--rate", "5", "--texts-per-request", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    while lookups(gateway, "hit") + lookups(gateway, "miss") == before:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    told, _ = running.communicate(timeout=60)

    assert running.returncode == 0
    assert "answered" in told and "100 in" not in told


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["{none}"], 1, "No such file or directory"),
        (["{empty}"], 1, "contains no danmaku (it is empty)"),
        (["{file}", "--rate", "0"], 2, "invalid positive float value: '0'"),
        (["{file}", "--rate", "1", "--concurrency", "2"], 2, "not allowed with argument"),
        (["{file}", "--texts-per-request", "1.5"], 2, "invalid positive int value: '1.5'"),
        (["{file}", "--json", "{none}/x.json"], 1, "invalid --json: the directory"),
    ],
)
def test_invalid_arguments_are_explained(
    gateway: httpx.Client, danmaku: Path, flags: list[str], status: int, message: str
) -> None:
    danmaku.with_name("empty").touch()
    places = {"file": danmaku, "none": danmaku.with_name("none"), "empty": danmaku.with_name("empty")}
    done = command("bench", *[flag.format(**places) for flag in flags], "--url", str(gateway.base_url))

    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_missing_gateway_is_reported_before_any_load(danmaku: Path) -> None:
    (port,) = free_ports(1)
    done = command("bench", danmaku, "--url", f"http://127.0.0.1:{port}", "--timeout-s", "0.5")

    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot reach" in done.stderr


@pytest.mark.parametrize("name", ["serve", "key", "worker", "embed", "bench", "check", "collections"])
def test_every_command_has_help_with_an_example(name: str) -> None:
    told = command(name, "--help").stdout

    assert f"danmaku {name}" in told.partition("example")[2]
