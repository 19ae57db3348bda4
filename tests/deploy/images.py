"""What the Dockerfile says, and how the command line parses the arguments of a container."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service import cli
from service.commands import check, serve, worker
from service.commands.flags import given_settings
from service.settings import Settings
from service.worker.flags import encoder_options, find_faults

ROOT = Path(__file__).parents[2]
PREFIX = "danmaku-embedding-"  # of the images' names, before their target


@dataclass
class Stage:
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health_check: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)  # from the repository
    user: str = ""


def stages() -> dict[str, Stage]:
    """Returns the stages by name, each with what it inherits from the stage it begins with."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M))
    found: dict[str, Stage] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            before = found.get(base, Stage())
            stage = found[name] = Stage(
                before.entrypoint,
                before.command,
                before.health_check,
                dict(before.variables),
                list(before.ports),
                list(before.copied),
                before.user,
            )
        elif word == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif word == "CMD":
            stage.command = json.loads(rest)
        elif word == "HEALTHCHECK":
            stage.health_check = json.loads(rest.partition(" CMD ")[2])
        elif word == "ENV":
            stage.variables |= dict(pair.split("=", 1) for pair in rest.split(" "))
        elif word == "EXPOSE":
            stage.ports += map(int, rest.split(" "))
        elif word == "COPY" and "--from" not in rest:
            stage.copied += rest.split(" ")[:-1]
        elif word == "USER":
            stage.user = rest
    return found


def understand(words: Sequence[str], variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses `words` with the command line without running the command. Raises SystemExit or AssertionError."""

    def check_settings(parsed: object) -> int:
        with monkeypatch.context() as outside:
            for name, value in variables.items():
                if name.startswith("DANMAKU_"):
                    assert name.removeprefix("DANMAKU_").lower() in Settings.model_fields, f"{name} is no setting"
                    outside.setenv(name, value)
            settings = Settings(**given_settings(parsed))  # type: ignore[arg-type]
        assert settings.api_key_hashes or settings.allow_anonymous, "it would not start: it has no API keys"
        return 0

    def check_worker_flags(parsed: object) -> int:
        assert find_faults(parsed) == []  # type: ignore[arg-type]
        encoder_options(parsed)  # type: ignore[arg-type]
        return 0

    program, *arguments = words
    assert program == "danmaku"
    with monkeypatch.context() as patch:
        patch.setattr(serve, "run", check_settings)
        patch.setattr(worker, "run", check_worker_flags)
        patch.setattr(check, "run", lambda _: 0)
        patch.setattr(worker, "run_classic", lambda _: 0)
        assert cli.main(arguments) == 0
