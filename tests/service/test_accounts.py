"""Named API keys: permissions, limits, and reports of their usage."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest
from conftest import ClientOf
from processes import serving

from service.accounts import Account, Accounts, Key
from service.api.http.keys import hash_key, make_key
from service.errors import ConfigurationError, QuotaSpent, RateExceeded
from service.metrics import Metrics
from service.settings import Settings

LIMITS = {
    "slow": "texts_per_s = 0.5",
    "poor": "texts_per_day = 10",
    "reader": "read_only = true",
    "roomy": 'collections = ["room-", "shared"]',
    "free": "",
}
KEYS = {name: make_key() for name in (*LIMITS, "unnamed")}
DAY_S = 24 * 3600


def header(name: str) -> dict[str, str]:
    return {"X-API-Key": KEYS[name]}


@pytest.fixture
async def http(client_of: ClientOf, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with a key of each kind, and one without a name."""
    path = tmp_path / "keys.toml"
    path.write_text("\n".join(f'[{name}]\nhash = "{hash_key(KEYS[name])}"\n{limit}' for name, limit in LIMITS.items()))
    hashes = hash_key(KEYS["unnamed"])
    settings = Settings(api_key_hashes=hashes, api_keys_file=str(path), collections=f"sqlite://{tmp_path}")
    async with client_of(settings) as client:
        yield client


def account(metrics: Metrics, now: list[float], **limits: object) -> Account:
    return Account("bot", Key.model_validate({"hash": "0" * 64, **limits}), metrics, clock=lambda: now[0])


def test_a_rate_limits_texts_over_time(metrics: Metrics) -> None:
    """A list is accepted as a whole, whatever its length, and charged afterwards."""
    now = [0.0]
    bot = account(metrics, now, texts_per_s=2)
    bot.check()
    bot.charge(1000)
    with pytest.raises(RateExceeded, match="key 'bot' may send 2 texts per second; retry in 490 s") as refused:
        bot.check()
    assert refused.value.retry_after_s == 490  # 20 were saved up
    now[0] = 489.0
    with pytest.raises(RateExceeded):
        bot.check()
    now[0] = 490.5
    bot.check()

    now[0] = 490.0  # a clock that is set back gives nothing and takes nothing
    bot.check()


def test_a_quota_is_for_a_day_of_utc(metrics: Metrics) -> None:
    now = [DAY_S * 20_000 - 100.5]
    bot = account(metrics, now, texts_per_day=5)
    for _ in range(5):
        bot.check()
        bot.charge(1)
    with pytest.raises(QuotaSpent, match="key 'bot' may send 5 texts per day; retry in 101 s") as refused:
        bot.check()
    assert refused.value.retry_after_s == 101
    now[0] += 101
    bot.check()
    assert bot.usage()["texts_today"] == 0


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
async def test_a_refusal_by_the_rate_says_when_to_retry(http: httpx.AsyncClient, path: str) -> None:
    texts = ["草"] * 60
    body = {"input": texts, "model": "recording"} if path.startswith("/v1") else {"texts": texts}
    assert (await http.post(path, json=body, headers=header("slow"))).status_code == 200
    refused = await http.post(path, json=body, headers=header("slow"))
    assert refused.status_code == 429
    assert 100 <= int(refused.headers["retry-after"]) <= 110
    assert b"rate_exceeded" in refused.content
    assert (await http.post(path, json=body, headers=header("free"))).status_code == 200


async def test_a_spent_quota_ends_the_day(http: httpx.AsyncClient) -> None:
    assert (await http.post("/embed", json=["草"] * 10, headers=header("poor"))).status_code == 200
    refused = await http.get("/info", headers=header("poor"))
    assert (refused.status_code, refused.json()["error_type"]) == (429, "quota_spent")
    assert 0 < int(refused.headers["retry-after"]) <= DAY_S

    (usage,) = (await http.get("/usage", headers=header("poor"))).json()["keys"]
    assert (usage["key"], usage["texts_today"], usage["texts_per_day"], usage["refused_today"]) == ("poor", 10, 10, 1)


async def test_a_stream_is_charged_and_ends_with_the_quota(http: httpx.AsyncClient) -> None:
    headers = {**header("poor"), "content-type": "application/x-ndjson"}
    answer = await http.post("/embed", content=b'"aa"\n' * 1000, headers=headers)
    assert answer.status_code == 200
    assert orjson.loads(answer.content.splitlines()[-1])["error_type"] == "quota_spent"


async def test_a_read_only_key_changes_nothing(http: httpx.AsyncClient) -> None:
    await http.put("/collections/room-1", headers=header("free"))
    for method, path, body in (
        ("PUT", "/collections/other", None),
        ("POST", "/collections/room-1/danmaku", ["aa"]),
        ("POST", "/collections/room-1/delete", {"filter": {}}),
        ("POST", "/collections/room-1/rebuild", None),
        ("DELETE", "/collections/room-1/danmaku/x", None),
        ("DELETE", "/collections/room-1", None),
    ):
        answer = await http.request(method, path, json=body, headers=header("reader"))
        assert (answer.status_code, answer.json()["error_type"]) == (403, "forbidden"), path
    for path in ("/collections", "/collections/room-1", "/collections/room-1/danmaku", "/collections/room-1/map"):
        assert (await http.get(path, headers=header("reader"))).status_code == 200
    search = {"query": "aa", "collection": "room-1"}
    assert (await http.post("/similar", json=search, headers=header("reader"))).status_code == 200


async def test_a_key_uses_only_its_collections(http: httpx.AsyncClient) -> None:
    for name in ("room-1", "shared", "secret", "roo"):
        await http.put(f"/collections/{name}", headers=header("free"))
        answers = [
            await http.get(f"/collections/{name}", headers=header("roomy")),
            await http.get(f"/collections/{name}/danmaku", headers=header("roomy")),
            await http.post(f"/collections/{name}/danmaku", json=["aa"], headers=header("roomy")),
            await http.post("/similar", json={"query": "aa", "collection": name}, headers=header("roomy")),
            await http.put(f"/collections/{name}", headers=header("roomy")),
        ]
        expected = 200 if name in ("room-1", "shared") else 403
        assert {answer.status_code for answer in answers} == {expected}, name
    listed = (await http.get("/collections", headers=header("roomy"))).json()["collections"]
    assert {info["name"] for info in listed} == {"room-1", "shared"}
    refused = (await http.get("/collections/secret", headers=header("roomy"))).json()
    assert refused["error"] == "key 'roomy' may not use collection 'secret'; expected one of room-*, shared*"


async def test_usage_is_in_metrics_and_shown_to_its_key(http: httpx.AsyncClient) -> None:
    await http.post("/embed", json=["aa", "b", "c"], headers=header("free"))
    metrics = (await http.get("/metrics")).text
    assert 'danmaku_key_texts_total{key="free"} 3.0' in metrics
    assert 'danmaku_key_requests_total{key="free",outcome="ok"} 1.0' in metrics
    assert 'danmaku_key_requests_total{key="slow",outcome="refused"} 0.0' in metrics

    own = (await http.get("/usage", headers=header("free"))).json()["keys"]
    assert [(usage["key"], usage["texts_today"]) for usage in own] == [("free", 3)]
    every = (await http.get("/usage", headers=header("unnamed"))).json()["keys"]
    assert [usage["key"] for usage in every] == ["unnamed", *LIMITS]
    assert (await http.get("/usage")).status_code == 401


async def test_destructive_requests_are_logged(http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "danmaku.audit")
    await http.put("/collections/room", headers=header("free"))
    await http.post("/collections/room/danmaku", json=["aa", "b", "c"], headers=header("free"))
    await http.post("/collections/room/rebuild", headers=header("free"))
    await http.post("/collections/room/delete", json={"filter": {"room": 3}}, headers=header("free"))
    await http.delete("/collections/room", headers=header("unnamed"))

    assert [record.getMessage() for record in caplog.records if record.name == "danmaku.audit"] == [
        "Key 'free' rebuilt collection 'room': 3 danmaku were kept, 0 lost.",
        "Key 'free' deleted 0 danmaku of collection 'room' by a filter.",
        "Key 'unnamed' dropped collection 'room' with 3 danmaku.",
    ]


HASH = f'hash = "{"0" * 64}"'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a readable TOML file"),
        ("[bot", "expected a readable TOML file"),
        ("", "no keys; expected a table for each"),
        ("bot = 1", "invalid key 'bot'"),
        ("[bot]", "invalid hash of key 'bot'"),
        ('[bot]\nhash = "SECRET"', "invalid hash of key 'bot'"),
        (f"[bot]\n{HASH}\ntexts_per_s = 0", "invalid texts_per_s of key 'bot'"),
        (f"[bot]\n{HASH}\ntexts_per_s = nan", "invalid texts_per_s of key 'bot'"),
        (f"[bot]\n{HASH}\ncolour = 1", "invalid colour of key 'bot'"),
        (f'["a b"]\n{HASH}', "invalid name of a key 'a b'"),
        (f"[unnamed]\n{HASH}", "invalid name of a key 'unnamed'"),
        (f"[a]\n{HASH}\n[b]\n{HASH}", "invalid hash of key 'b'"),
    ],
)
def test_an_invalid_file_is_explained(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "keys.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError) as error:
        Accounts((), str(path), Metrics())
    assert message in str(error.value) and str(path) in str(error.value) and "SECRET" not in str(error.value)


def test_a_file_is_read_again_without_forgetting_what_was_used(metrics: Metrics, tmp_path: Path) -> None:
    """A file that cannot be used changes nothing."""
    path = tmp_path / "keys.toml"
    digests = {name: bytes.fromhex(hash_key(KEYS[name])) for name in ("poor", "slow", "free")}

    def write(**limits: str) -> None:
        tables = [f"[{name}]\nhash = '{digests[name].hex()}'\n{limit}" for name, limit in limits.items()]
        path.write_text("\n".join(tables))

    def find(name: str) -> Account:
        found = accounts.find(digests[name])
        assert found
        return found

    write(poor="", slow="texts_per_s = 1")
    accounts = Accounts((), str(path), metrics)
    find("poor").charge(100)
    find("slow").charge(100)
    path.write_text("nonsense")
    accounts.read_again()
    find("poor").check()

    write(poor="texts_per_day = 50", slow="texts_per_s = 1", free="")
    accounts.read_again()
    with pytest.raises(QuotaSpent):
        find("poor").check()
    with pytest.raises(RateExceeded):
        find("slow").check()
    find("free").check()

    write(free="")
    accounts.read_again()
    assert (accounts.find(digests["poor"]), len(accounts)) == (None, 1)


def test_a_running_gateway_reads_its_keys_again_when_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f"[slow]\nhash = '{hash_key(KEYS['slow'])}'\n")
    with serving("--api-keys-file", str(path), "--collections", "none", "--access-log", "false") as (http, process):
        assert http.get("/info", headers=header("free")).status_code == 401
        path.write_text(f"[free]\nhash = '{hash_key(KEYS['free'])}'\n")
        process.send_signal(signal.SIGHUP)
        while http.get("/info", headers=header("free")).status_code == 401:
            time.sleep(0.02)
        assert http.get("/info", headers=header("slow")).status_code == 401
