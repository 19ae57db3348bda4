"""A web page cannot drive a gateway on loopback, and a browser can tell our answers from pages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from conftest import ClientOf

from service.api.http.keys import hash_key, make_key
from service.api.http.pages import is_known_host
from service.settings import Settings

EMPTY = b'{"filter":{}}'
JSON = {"content-type": "application/json"}
PAGE = "https://danmaku.example"


@pytest.fixture
async def http(client_of: ClientOf, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Of a gateway without keys, whose collection `victim` has one danmaku."""
    settings = Settings(collections=f"sqlite://{tmp_path}", cors_origins=PAGE, allowed_hosts="embed.example.com")
    async with client_of(settings) as client:
        await client.put("/collections/victim")
        await client.post("/collections/victim/danmaku", json=["aa"])
        yield client


async def count(http: httpx.AsyncClient) -> int:
    return int((await http.get("/collections/victim")).json()["count"])


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example", "content-type": "text/plain"},  # a form
        {"origin": "http://evil.example", **JSON},
        {"origin": "null", **JSON},  # a form in a sandbox
        {"origin": "http://test.evil.example", **JSON},
        {"origin": "http://test:81", **JSON},
        {"sec-fetch-site": "cross-site", **JSON},
        {"sec-fetch-site": "same-site", "origin": "http://localhost:3000", **JSON},
    ],
)
@pytest.mark.parametrize("path", ["delete", "danmaku", "rebuild"])
async def test_a_page_of_another_site_changes_nothing(
    http: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await http.post(f"/collections/victim/{path}", content=EMPTY, headers=headers)

    assert (answer.status_code, answer.json()["error_type"]) == (403, "foreign_origin")
    assert await count(http) == 1


@pytest.mark.parametrize("headers", [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}])
@pytest.mark.parametrize("path", ["/embed", "/tokenize", "/similar", "/v1/embeddings", "/encode"])
async def test_nor_does_it_make_work(http: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    assert (await http.post(path, content=b'["aa"]', headers=headers)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://test"},
        {"origin": PAGE},
        {"origin": PAGE, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin", "origin": "https://behind-a-proxy.example"},
        {"sec-fetch-site": "none"},
    ],
)
async def test_our_own_page_may(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await http.post("/collections/victim/delete", content=EMPTY, headers=JSON | headers)

    assert answer.json() == {"deleted": 1}


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json"]
)
async def test_a_change_says_that_it_is_json(http: httpx.AsyncClient, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = await http.post("/collections/victim/delete", content=EMPTY, headers=headers)

    assert (answer.status_code, answer.json()["error_type"]) == (415, "unknown_content_type")
    assert await count(http) == 1
    assert (await http.post("/embed", content=b'["aa"]', headers=headers)).status_code == 200  # it changes nothing


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil"])
async def test_another_host_is_refused(http: httpx.AsyncClient, host: str) -> None:
    for path in ("/", "/collections", "/docs"):
        answer = await http.get(path, headers={"host": host})
        assert (answer.status_code, answer.json()["error_type"]) == (421, "unknown_host")
    assert (await http.get("/healthz", headers={"host": host})).status_code == 200  # Prometheus uses any name


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "a.localhost", "gateway:8000", "10.1.2.3", "embed.example.com"],
)
async def test_its_own_hosts_are_not(http: httpx.AsyncClient, host: str) -> None:
    assert (await http.get("/collections", headers={"host": host})).status_code == 200


def test_any_host_if_it_was_set_so() -> None:
    assert is_known_host(b"evil.example", ["*"])
    assert not is_known_host(b"evil.example", [])


async def test_any_host_with_a_key(client_of: ClientOf) -> None:
    key = make_key()
    async with client_of(Settings(api_key_hashes=hash_key(key))) as http:
        answer = await http.post(
            "/embed", json=["aa"], headers={"host": "embed.example.com", "authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 200


async def test_no_answer_redirects(http: httpx.AsyncClient) -> None:
    for path in ("/embed/", "/collections/;/", "/docs/"):
        answer = await http.post(path, headers={"host": "gateway"})
        assert answer.status_code in (404, 405)
        assert "location" not in answer.headers


async def test_every_answer_forbids_guessing_its_type(http: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/healthz", "/nothing", "/openapi.json", "/metrics"):
        assert (await http.get(path)).headers.get_list("x-content-type-options") == ["nosniff"]


async def test_the_page_of_the_api_runs_only_its_own_script(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert len(re.findall("'sha256-", policy)) == answer.text.count("<script>") == 1
    assert "script-src 'self' 'sha256-" in policy and "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
