"""Writes the dashboards, grafana/dashboards/*.json. `make dashboards` runs it, and a test fails when it is due.

overview.py  the gateways as users see them
workers.py   the workers behind them
panels.py    the kinds of panel that both use
"""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring.overview import overview
from monitoring.workers import workers

DIRECTORY = Path(__file__).parent / "grafana" / "dashboards"


def generated() -> dict[str, str]:
    """Returns all dashboards by file name."""
    texts = {}
    for name, page in (("overview.json", overview()), ("workers.json", workers())):
        built = page.build()
        for number, panel in enumerate(built.panels or (), 1):
            panel.id_val = number  # which links to a panel use
        texts[name] = json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
    return texts


if __name__ == "__main__":
    for name, text in generated().items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")
