"""No secret leaves the process: in no log, response, error about a setting, or help text."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from processes import free_ports, serving

from service.api.http.keys import hash_key, make_key
from service.cache.open import open_cache
from service.cli import main
from service.errors import ConfigurationError
from service.metrics import Metrics

PASSWORD = "hunter2"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_gateway_writes_no_secret(tmp_path: Path, log_format: str) -> None:
    """Redis does not respond, requests have right and wrong keys, and much fails."""
    key, wrong = make_key(), make_key()
    (port,) = free_ports(1)
    variables = {
        "DANMAKU_CACHE": f"redis://user:{PASSWORD}@127.0.0.1:{port}/0",
        "DANMAKU_API_KEY_HASHES": hash_key(key),
        "DANMAKU_LOG_FORMAT": log_format,
    }
    answers = []
    with (tmp_path / "stdout").open("wb") as stdout, serving(variables=variables, stdout=stdout) as (client, process):
        for headers in ({}, {"X-API-Key": key}, {"X-API-Key": wrong}, {"Authorization": f"Bearer {key}"}):
            for method, path in (("GET", "/info"), ("GET", f"/no/{key[:3]}?key={key}"), ("GET", "/openapi.json")):
                answers.append(client.request(method, path, headers=headers))
            for body in ('["草"]', "no", "{}"):
                answers.append(client.post(f"/embed?key={key}", content=body, headers=headers))
        while "danmaku_redis_breaker_open 1.0" not in (answer := client.get("/metrics")).text:
            answers.append(client.post("/embed", json=[f"草 {len(answers)}"], headers={"X-API-Key": key}))
            time.sleep(0.02)
        answers.append(answer)
        process.terminate()
        stderr = process.communicate(timeout=60)[1]
    written = (tmp_path / "stdout").read_text(encoding="utf-8") + stderr
    written += "".join(f"{answer.headers} {answer.text}" for answer in answers)

    assert {answer.status_code for answer in answers} == {200, 400, 401, 404, 422}
    assert "Redis does not respond" in stderr
    for secret in (PASSWORD, key, wrong, hash_key(key)):
        assert secret not in written


@pytest.mark.parametrize("name", ["api-key-hashes", "cors-origins", "port", "pooling-strategy", "max-queue-texts"])
def test_the_value_of_an_invalid_setting_is_not_shown(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """It may be a key in place of its hash."""
    secret = make_key()

    assert main(["serve", f"--{name}", secret]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"danmaku serve: {name.replace('-', '_')}: ")
    assert secret not in shown


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}/x@127.0.0.1:6379/0",
        f"redis://:{PASSWORD}@127.0.0.1:port/0",
        f"redis://:{PASSWORD}@127.0.0.1:6379/0?socket_timeout=soon",
        f"redis:/:{PASSWORD}@127.0.0.1:6379",
        f"{PASSWORD}://127.0.0.1",
        PASSWORD,
    ],
)
def test_an_invalid_cache_url_is_not_shown(metrics: Metrics, url: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://") as refused:
        open_cache(url, max_bytes=0, ttl_s=1, number_format="float32", metrics=metrics)
    assert PASSWORD not in str(refused.value)


def test_the_help_shows_no_environment_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DANMAKU_CACHE", f"redis://:{PASSWORD}@127.0.0.1:6379/0")
    with pytest.raises(SystemExit):
        main(["serve", "--help"])

    assert PASSWORD not in capsys.readouterr().out
