"""The Dockerfile, checked without building it. `make image-check` builds it."""

from __future__ import annotations

import re

import pytest
from deploy.images import ROOT, stages, understand

import service
from service.settings import Settings

STAGES = stages()
SERVING = ("gateway", "worker", "worker-gpu", "classic")
KEY = {"DANMAKU_API_KEY_HASHES": "0" * 64}


@pytest.mark.parametrize("target", SERVING)
def test_the_command_line_accepts_what_an_image_starts(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES[target]

    understand([*stage.entrypoint, *stage.command], stage.variables | KEY, monkeypatch)
    understand(stage.health_check, {}, monkeypatch)


def test_a_gateway_requires_keys_unless_configured_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES["gateway"]

    with pytest.raises(AssertionError, match="no API keys"):
        understand([*stage.entrypoint, *stage.command], stage.variables, monkeypatch)


@pytest.mark.parametrize("target", SERVING)
def test_a_health_check_uses_the_exposed_ports(target: str) -> None:
    stage = STAGES[target]

    asked = [int(port) for port in re.findall(r":(\d+)", stage.health_check[-1])]
    assert asked == stage.ports[: len(asked)]


def test_a_gateway_listens_where_its_image_says() -> None:
    assert STAGES["gateway"].ports == [Settings.model_fields["port"].default]


@pytest.mark.parametrize("target", [*SERVING, "training"])
def test_an_image_runs_without_privileges(target: str) -> None:
    assert STAGES[target].user == "10001:10001"


def test_copied_files_exist_and_are_not_ignored() -> None:
    """Everything is ignored except what `.dockerignore` names."""
    copied = {path for stage in STAGES.values() for path in stage.copied}
    let_in = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))

    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert {path.split("/")[0] for path in copied} == let_in


def test_the_label_has_the_version() -> None:
    (version,) = re.findall(r'image\.version="(.*?)"', (ROOT / "Dockerfile").read_text(encoding="utf-8"))

    assert version == service.__version__
