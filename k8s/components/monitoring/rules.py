"""Prints monitoring/rules/*.yml in the Prometheus operator's format, for prometheus-rules.yaml: `make k8s-rules`.

A rules file has the content of `spec` in a PrometheusRule, so its lines are copied there unchanged.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

RULES = Path(__file__).parents[3] / "monitoring" / "rules"
HEAD = """apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: danmaku-{name}
spec:
"""


def manifests() -> str:
    parts = [
        HEAD.format(name=path.stem) + indent(path.read_text(encoding="utf-8"), "  ")
        for path in sorted(RULES.glob("*.yml"))
    ]
    return "# Written by `make k8s-rules` from monitoring/rules.\n" + "---\n".join(parts)


if __name__ == "__main__":
    print(manifests(), end="")
