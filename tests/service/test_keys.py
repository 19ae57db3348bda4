"""API keys: requests with a key are accepted, and a gateway without keys listens on loopback only."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from conftest import ClientOf

from service.api.http.keys import check_host, hash_key, make_key
from service.errors import ConfigurationError
from service.settings import Settings

ROOT = Path(__file__).parents[2]
KEYS = [make_key(), make_key()]
PAGE = "https://danmaku.example"


@pytest.fixture
async def client(client_of: ClientOf) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with two keys and one allowed origin."""
    hashes = ", ".join(hash_key(key) for key in KEYS)
    async with client_of(Settings(api_key_hashes=hashes, cors_origins=PAGE)) as http:
        yield http


@pytest.mark.parametrize("key", KEYS, ids=["first", "second"])
@pytest.mark.parametrize("header", ["Authorization: Bearer ", "authorization: bearer ", "X-API-Key: "])
async def test_requests_with_a_key_are_accepted(client: httpx.AsyncClient, header: str, key: str) -> None:
    """Each of several keys is valid, in either header."""
    name, _, value = (header + key).partition(": ")

    assert (await client.post("/embed", json=["草"], headers={name: value})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEYS[0][:-1]},
        {"X-API-Key": hash_key(KEYS[0])},
        {"Authorization": f"Basic {KEYS[0]}"},
        {"Authorization": f"Bearer {KEYS[0]} {KEYS[1]}"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/embed", "/similar", "/info", "/nothing", "/docs/", "http://test//healthz", "/healthz/../embed"]
)
async def test_requests_without_a_key_are_refused(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    """The refusal does not reveal which routes exist, and nothing is encoded."""
    answer = await client.request("POST", path, json=["草"], headers=headers)

    assert (answer.status_code, answer.json()["error_type"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEYS[0][:-1] not in answer.text


async def test_a_wrong_key_and_a_missing_key_are_different_errors(client: httpx.AsyncClient) -> None:
    wrong = await client.get("/info", headers={"X-API-Key": "danmaku_wrong"})
    none = await client.get("/info")

    assert wrong.json()["error"] == "invalid API key"
    assert "Authorization: Bearer KEY" in none.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        *("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui-bundle.js"),
        *("/", "/static/app.js"),
    ],
)
async def test_probes_and_documentation_need_no_key(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


async def test_the_docs_page_asks_for_a_key(client: httpx.AsyncClient) -> None:
    """The OpenAPI document says which routes need one."""
    document = (await client.get("/openapi.json")).json()

    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
    assert document["paths"]["/embed"]["post"]["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


async def test_an_allowed_origin_may_send_requests(client: httpx.AsyncClient) -> None:
    """Its browser first asks without a key; errors and exposed headers can be read, too."""
    asking = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    allowed = await client.options("/embed", headers=asking)
    refused = await client.post("/embed", json=["草"], headers={"Origin": PAGE})
    answered = await client.post("/embed", json=["草"], headers={"Origin": PAGE, "X-API-Key": KEYS[0]})

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    for answer, status in ((refused, 401), (answered, 200)):
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
    assert "X-Request-ID" in answered.headers["access-control-expose-headers"]


async def test_other_origins_may_not(client: httpx.AsyncClient) -> None:
    other = {"Origin": "https://other.example"}
    asked = await client.options("/embed", headers={**other, "Access-Control-Request-Method": "POST"})
    answer = await client.post("/embed", json=["草"], headers={**other, "X-API-Key": KEYS[0]})

    assert asked.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


async def test_by_default_no_origin_is_allowed(recording_client: httpx.AsyncClient) -> None:
    answer = await recording_client.post("/embed", json=["草"], headers={"Origin": PAGE})

    assert (answer.status_code, answer.json()["error_type"]) == (403, "foreign_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_host(host, has_keys=False, allow_anonymous=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", ""])
def test_other_addresses_need_keys_or_an_explicit_setting(host: str) -> None:
    check_host(host, has_keys=True, allow_anonymous=False)
    check_host(host, has_keys=False, allow_anonymous=True)
    with pytest.raises(ConfigurationError, match=r"`danmaku key`.*--allow-anonymous true"):
        check_host(host, has_keys=False, allow_anonymous=False)


def test_an_unresolvable_host_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="invalid host 'no.such.invalid'"):
        check_host("no.such.invalid", has_keys=False, allow_anonymous=False)


def test_a_gateway_without_keys_refuses_to_listen_on_other_addresses() -> None:
    """The error is one line, before the model is opened."""
    command = [sys.executable, "-m", "service", "serve", "--host", "0.0.0.0", "--port", "0", "--encoder", "onnx://none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.startswith("danmaku serve: host '0.0.0.0' listens on 0.0.0.0, which other machines can reach")


def test_a_key_is_printed_with_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    """Every call prints another one."""
    from service.cli import main

    keys = set()
    for _ in range(3):
        assert main(["key"]) == 0
        (_, key), (_, digest) = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert key.startswith("danmaku_") and len(key) >= 50
        assert digest == hashlib.sha256(key.encode()).hexdigest()
        keys.add(key)
    assert len(keys) == 3
