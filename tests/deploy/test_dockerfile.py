"""The Dockerfile, as far as it can be read. `make image-check` builds it."""

from __future__ import annotations

import re

import pytest
from deploy.images import ROOT, stages, understand

import service
from service.settings import Settings

STAGES = stages()
SERVING = ("gateway", "worker", "classic")
KEY = {"DANMAKU_API_KEY_HASHES": "0" * 64}


@pytest.mark.parametrize("target", SERVING)
def test_the_command_line_takes_what_an_image_starts(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES[target]

    understand([*stage.entrypoint, *stage.command], stage.variables | KEY, monkeypatch)
    understand(stage.health_check, {}, monkeypatch)


def test_a_gateway_lets_nobody_in_without_being_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = STAGES["gateway"]

    with pytest.raises(AssertionError, match="no API keys"):
        understand([*stage.entrypoint, *stage.command], stage.variables, monkeypatch)


@pytest.mark.parametrize("target", SERVING)
def test_an_image_checks_the_ports_that_it_names(target: str) -> None:
    stage = STAGES[target]

    asked = [int(port) for port in re.findall(r":(\d+)", stage.health_check[-1])]
    assert asked == stage.ports[: len(asked)]


def test_a_gateway_listens_where_its_image_says() -> None:
    assert STAGES["gateway"].ports == [Settings.model_fields["port"].default]


@pytest.mark.parametrize("target", [*SERVING, "training"])
def test_an_image_runs_without_rights(target: str) -> None:
    assert STAGES[target].user == "10001:10001"


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """Everything is ignored but what `.dockerignore` names."""
    copied = {path for stage in STAGES.values() for path in stage.copied}
    let_in = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))

    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert {path.split("/")[0] for path in copied} == let_in


def test_the_label_has_the_version() -> None:
    (version,) = re.findall(r'image\.version="(.*?)"', (ROOT / "Dockerfile").read_text(encoding="utf-8"))

    assert version == service.__version__
