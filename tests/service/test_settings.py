"""Settings: their sources, and which values are invalid."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.cli import main
from service.settings import Settings


def test_an_environment_variable_is_the_field_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANMAKU_PORT", "8123")
    monkeypatch.setenv("DANMAKU_POOLING_LAYER", "-1 -2")

    assert (Settings().port, Settings().pooling_layer) == (8123, (-1, -2))


@pytest.mark.parametrize("value", ["{} {}", "{},{}", " {},\n {} "])
def test_lists_are_separated_by_spaces_or_commas(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DANMAKU_API_KEY_HASHES", value.format("A" * 64, "b" * 64))
    monkeypatch.setenv("DANMAKU_CORS_ORIGINS", value.format("https://a.example", "http://localhost:3000"))

    assert Settings().api_key_hashes == ("a" * 64, "b" * 64)
    assert Settings().cors_origins == ("https://a.example", "http://localhost:3000")


def test_arguments_override_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANMAKU_PORT", "8123")

    assert Settings(port=9000).port == 9000


def test_contradictory_limits_are_refused_at_start() -> None:
    with pytest.raises(ValidationError, match="invalid max_request_texts 20: expected at most max_queue_texts 10"):
        Settings(max_request_texts=20, max_queue_texts=10)


def test_every_setting_says_when_to_change_it() -> None:
    assert [name for name, field in Settings.model_fields.items() if len(field.description or "") < 20] == []


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """The flag is the same word, with the field's description."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())

    assert ended.value.code == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "x"], "port: Input should be a valid integer"),
        (["--pooling-strategy", "MEAN"], "pooling_strategy: Input should be 'REDUCE_MEAN'"),
        (
            ["--api-key-hashes", f"{'a' * 64} {'b' * 63}"],
            "api_key_hashes: Value error, invalid hash 2: expected a SHA-256",
        ),
        (["--cors-origins", "https://a.example,b.example"], "cors_origins: Value error, invalid origin 2"),
        (
            ["--cors-origins", "https://a.example/"],
            "invalid origin 1: expected https://example.com, without a path",
        ),
        (["--max-queue-texts", "3"], "invalid max_request_texts 10000: expected at most max_queue_texts 3"),
    ],
)
def test_a_wrong_flag_is_a_one_line_error(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["serve", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("danmaku serve: ") and message in line
