"""The files of monitoring/, without a running Prometheus: dashboards are as generated, promtool accepts the
rules, each alert has a runbook, and every metric that is used is exported.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from processes import ROOT
from prometheus import DASHBOARDS, MONITORING, RULES, alerts, expressions, panels, program, rules
from prometheus_client.parser import text_string_to_metric_families

from monitoring.dashboards import generated
from service.metrics import Metrics, WorkerMetrics

NEVER = {"danmaku_worker_refused_texts", "danmaku_worker_expired_texts"}
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")


def test_the_dashboards_are_as_generated() -> None:
    """If this fails, run `make dashboards`."""
    assert {path.name: path.read_text() for path in DASHBOARDS} == generated()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_survives_grafanas_types(path: Path) -> None:
    """Reading a dashboard into Grafana's types and writing it again changes nothing except defaults."""
    register_default_plugins()
    content = json.loads(path.read_text())
    again = json.loads(json.dumps(Dashboard.from_json(content), cls=JSONEncoder))

    assert _without_additions(again, content) == content
    assert [panel["type"] for panel in content["panels"]].count("row") >= 4


def _without_additions(value: Any, like: Any) -> Any:
    if isinstance(value, dict) and isinstance(like, dict):
        return {name: _without_additions(each, like[name]) for name, each in value.items() if name in like}
    if isinstance(value, list) and isinstance(like, list) and len(value) == len(like):
        return [_without_additions(*pair) for pair in zip(value, like, strict=True)]
    return value


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_explains_itself(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]

    assert re.fullmatch(r"[A-Z].{10,}\.", panel["description"])
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"][0]["value"] is None
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) >= 1
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_panels_do_not_overlap() -> None:
    for path in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            at = panel["gridPos"]
            x, y = at.get("x", 0), at.get("y", 0)
            cells = {(column, line) for column in range(x, x + at["w"]) for line in range(y, y + at["h"])}
            assert x + at["w"] <= 24
            assert not taken & cells, panel["title"]
            taken |= cells


def test_expressions_use_exported_metrics() -> None:
    """A misspelt name in a panel or rule would only be a panel without data."""
    families = [f for metrics in (Metrics(), WorkerMetrics()) for f in metrics.registry.collect()]
    exported = {family.name.removesuffix("_info") for family in families}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    named = {name for text in expressions() for name in re.findall(r"\b(?:danmaku|process)[\w:]+", text)}
    bare = {re.sub("_(total|bucket|count|sum|info)$", "", name) for name in named - recorded}

    assert bare - exported == set()


@pytest.mark.parametrize("metrics", [Metrics(), WorkerMetrics()], ids=["gateway", "worker"])
def test_every_exported_metric_is_used(metrics: Metrics | WorkerMetrics) -> None:
    """Exceptions are process metrics, and worker-queue metrics that a worker never sets."""
    named = set(re.findall(r"\b(danmaku[\w:]+?)(?:_total|_bucket|_count|_sum|_info)?\b", "\n".join(expressions())))
    ours = {f.name for f in metrics.registry.collect() if f.name.startswith("danmaku")}

    assert {name.removesuffix("_info") for name in ours} - named - NEVER == set()


@pytest.mark.parametrize("metrics", [Metrics(), WorkerMetrics()], ids=["gateway", "worker"])
def test_all_series_exist_from_the_start(metrics: Metrics | WorkerMetrics) -> None:
    """Their number does not grow, except for those of the model, and of the keys and heads that settings name."""
    families = list(text_string_to_metric_families(metrics.text().decode()))
    empty = [family.name for family in families if not family.samples]

    assert [name for name in empty if not re.search("model_info$|_key_|_head_", name)] == []
    for family in families:
        if family.type == "histogram":
            bounds = {s.labels["le"] for s in family.samples if "le" in s.labels}
            is_time = family.name.endswith("_seconds")
            assert {"0.001", "0.25", "10.0", "+Inf"} <= bounds if is_time else family.name.endswith("_texts")
        if family.name.startswith("danmaku") and family.type == "counter":
            assert all(s.name.endswith("_total") for s in family.samples)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "--lint=all", "--lint-fatal", *(f"rules/{path.name}" for path in RULES)],
        ["test", "rules", *(f"rules/tests/{path.name}" for path in RULES)],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_accepts_the_rules(arguments: list[str]) -> None:
    done = subprocess.run([program("promtool"), *arguments], cwd=MONITORING, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    tests = "".join((path.parent / "tests" / path.name).read_text() for path in RULES)

    assert [rule["alert"] for rule in alerts() if f'alertname="{rule["alert"]}"' not in tests] == []


def test_every_alert_has_its_runbook() -> None:
    """Every runbook has its alert, with the same urgency; no other heading looks like an alert's name."""
    paragraphs = dict(re.findall(r"^## (Danmaku\w+)\n\n\*(page|ticket)\.\*", RUNBOOKS, re.MULTILINE))

    assert paragraphs == {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}
    for rule in alerts():
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook_url"] == f"{{{{ $externalLabels.danmaku_runbooks }}}}#{anchor}"
        assert rule["annotations"]["summary"].endswith(".")


def test_prometheus_has_the_label_with_the_base_of_runbook_links() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())

    assert (ROOT / config["global"]["external_labels"]["danmaku_runbooks"]).is_file()


def test_runbooks_name_panels_that_exist() -> None:
    text = " ".join(RUNBOOKS.split())
    named = {name for name in re.findall(r"(?<!\*)\*([A-Z][^*.]+)\*", text)}
    rows = {p["title"] for path in DASHBOARDS for p in json.loads(path.read_text())["panels"] if p["type"] == "row"}

    assert named - {panel["title"] for panel in panels()} - rows == set()


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "danmaku.yaml").read_text())["providers"]
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())

    assert source["type"] == "prometheus" and source["isDefault"]
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
