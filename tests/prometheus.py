"""A real Prometheus for tests, and the expressions of monitoring/."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from processes import ROOT, free_ports

MONITORING = ROOT / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((MONITORING / "rules").glob("*.yml"))
SCRAPE = "500ms"
# What Grafana puts in the place of its variables: all instances, and a time that all of a test fits in.
VARIABLES = {"$__rate_interval": "5m", "$gateway": ".*", "$worker": ".*"}


def program(name: str) -> Path:
    """Returns the path of `prometheus` or `promtool`. Skips if it is missing."""
    found = subprocess.run([ROOT / "tests" / "prometheus.sh", "--find"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return Path(found.stdout.strip()) / name


@dataclass(frozen=True)
class RunningPrometheus:
    http: httpx.Client

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Returns labels and value of every series without NaN. Raises AssertionError for an invalid expression."""
        answer = self.http.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer['error']}"
        values = [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]
        return [(labels, value) for labels, value in values if value == value]

    def value(self, expression: str) -> float:
        ((_, value),) = self.query(expression)
        return value

    def alerts(self) -> set[str]:
        """The names of those that are firing, or will if what they saw lasts."""
        return {each["labels"]["alertname"] for each in self.http.get("/api/v1/alerts").json()["data"]["alerts"]}


@contextmanager
def running_prometheus(directory: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[RunningPrometheus]:
    """Runs Prometheus with the project's configuration and rules; only targets and intervals differ."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    config["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
    config["rule_files"] = [str(path) for path in RULES]
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": list(these)}]} for job, these in targets.items()
    ]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [program("prometheus"), f"--config.file={directory}/prometheus.yml", "--log.level=error"]
    command += [f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}"]
    process = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            wait_for(lambda: _is_ready(http, process))
            yield RunningPrometheus(http)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_ready(http: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus ended"
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def wait_for(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {within_s:g} s in vain"
        time.sleep(0.1)


def panels() -> list[dict[str, Any]]:
    """Returns the panels of all dashboards without rows."""
    found = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Returns the names of alerts that are firing or pending."""
    return [rule for rule in rules() if "alert" in rule]


def expressions() -> list[str]:
    """Returns the expressions of every panel and rule; both sides of a comparison or join separately, because together
    they may be empty.
    """
    whole = [target["expr"] for panel in panels() for target in panel["targets"]] + [rule["expr"] for rule in rules()]
    sides = [side for expression in map(with_variables, whole) for side in _sides(expression)]
    return list(dict.fromkeys(sides))


def with_variables(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def _sides(expression: str) -> Iterator[str]:
    selectors = re.findall(r"\{[^}]*\}", expression)
    masked = re.sub(r"\{[^}]*\}", "{}", " ".join(expression.split()))
    for side in re.split(r"\b(?:and|or|unless)\b(?: on \([^)]*\))?|[<>=!]=|[<>]", masked):
        side = re.sub(r"^ *absent\(", "(", side).strip()
        while side.count("(") > side.count(")") and side.startswith("("):
            side = side[1:].strip()
        while side.count(")") > side.count("(") and side.endswith(")"):
            side = side[:-1].strip()
        side = re.sub(r"\{\}", lambda _: selectors.pop(0), side)
        if re.search("[a-z]", side):  # else a number
            yield side
