"""Collections over HTTP and the real embedded store: adding, finding, and a change of model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from fakes import RecordingEncoder
from processes import ROOT, serving
from stored import until

from service.app import create_app
from service.cache.memory import MemoryCache
from service.collections.collections import Collections, default_id
from service.collections.default import read_danmaku
from service.embedder import Embedder
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.settings import Settings
from service.stores.base import Item
from service.stores.open import open_store

JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}


@asynccontextmanager
async def gateway(model: Path, directory: Path, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(encoder=f"onnx://{model}", collections=f"sqlite://{directory}", threads=2, **settings))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield http


@pytest.fixture
async def http(tiny_model: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway with an empty collection `room`."""
    async with gateway(tiny_model, tmp_path / "collections") as client:
        assert (await client.put("/collections/room")).status_code == 200
        yield client


async def add(http: httpx.AsyncClient, *items: object) -> dict[str, object]:
    answer = await http.post("/collections/room/danmaku", json=items)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def similar(http: httpx.AsyncClient, **body: object) -> list[dict[str, object]]:
    answer = await http.post("/similar", json={"collection": "room"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["matches"]


async def items_of(http: httpx.AsyncClient, name: str) -> list[dict[str, object]]:
    """Reads all items, two per page."""
    items, after = [], None
    while True:
        params = {"limit": 2} | ({"after": after} if after else {})
        page = (await http.get(f"/collections/{name}/danmaku", params=params)).json()
        items += page["danmaku"]
        if (after := page["next"]) is None:
            return items


async def until_made(http: httpx.AsyncClient) -> dict[str, object]:
    """Waits for the default collection and returns its description."""

    async def is_made() -> bool:
        answer = await http.get("/collections/default")
        return answer.status_code == 200 and bool(answer.json()["count"])

    await until(is_made)
    return (await http.get("/collections/default")).json()


async def test_a_bot_adds_a_line_and_finds_it(http: httpx.AsyncClient) -> None:
    for line in ("草", "晚安", "aqua"):
        assert (await add(http, line))["added"] == 1
        best = (await similar(http, query=line))[0]
        assert (best["text"], best["id"]) == (line, default_id(line))
        assert best["score"] == pytest.approx(1, abs=1e-3)


async def test_a_danmaku_posted_often_is_one_item_with_a_count(http: httpx.AsyncClient) -> None:
    await add(http, "草", "草", "草")
    assert await add(http, "草") == {"added": 0, "replaced": 1, "refused": 0, "reasons": []}
    assert [match["count"] for match in await similar(http, query="草")] == [4]


async def test_invalid_items_are_refused_and_the_others_added(http: httpx.AsyncClient) -> None:
    huge = {"text": "草", "metadata": {"n": "草" * 5000}}
    bad = [
        "草",
        " ",
        "ж",
        7,
        {"id": "a"},
        huge,
        {"text": "草", "ttl_s": -1},
        {"text": "草", "ttl_s": 1, "expires_at": 9},
        {"text": "草", "id": ".."},
        {"text": "草", "id": "a\nb"},
    ]
    report = await add(http, *bad, {"text": "awsl"})
    reasons = [(reason["index"], reason["error_type"]) for reason in report["reasons"]]

    assert (report["added"], report["refused"]) == (2, 9)
    assert reasons[:2] == [(1, "empty_text"), (2, "unspellable")]
    assert reasons[2:] == [(index, "invalid_request") for index in (3, 4, 5, 6, 7, 8, 9)]
    assert "which no URL can name" in report["reasons"][-1]["error"]


async def test_observing_takes_a_list_and_no_stream(http: httpx.AsyncClient) -> None:
    ndjson = {"content-type": "application/x-ndjson"}
    answer = await http.post("/collections/room/observe", content='"草"\n"晚安"\n', headers=ndjson)

    assert answer.status_code == 415 and "expected application/json, a list of lines" in answer.json()["error"]


async def test_searches_accept_a_text_an_id_or_a_vector(http: httpx.AsyncClient) -> None:
    await add(
        http, {"text": "草", "id": "a/b", "metadata": {"room": 3}}, {"text": "晚安", "metadata": {"room": 4}}, "aqua"
    )
    (vector,) = (await http.post("/embed", json=["草"])).json()["embeddings"]

    assert (await similar(http, vector=vector, top_k=1))[0]["id"] == "a/b"
    assert {match["text"] for match in await similar(http, id="a/b")} == {"晚安", "aqua"}
    assert [match["text"] for match in await similar(http, query="草", filter={"room": 4})] == ["晚安"]
    assert [match["text"] for match in await similar(http, query="草", min_score=0.999)] == ["草"]
    (match,) = await similar(http, query="草", top_k=1, with_vectors=True)
    np.testing.assert_allclose(match["vector"], np.array(vector) / np.linalg.norm(vector), atol=1e-3)


async def test_danmaku_are_read_and_deleted_one_by_one_or_by_filter(http: httpx.AsyncClient) -> None:
    texts = ["草", "晚安", "aqua", "awsl", "kk"]
    await add(http, *({"text": text, "id": f"x/{text}", "metadata": {"at": at}} for at, text in enumerate(texts)))
    assert sorted(item["text"] for item in await items_of(http, "room")) == sorted(texts)

    one = "/collections/room/danmaku/x/草"
    assert (await http.get(one)).json()["text"] == "草"
    assert [(await http.delete(one)).json() for _ in range(2)] == [{"deleted": 1}, {"deleted": 0}]
    assert (await http.get(one)).json()["error_type"] == "not_found"
    answer = await http.post("/collections/room/delete", json={"filter": {"at": {"gte": 3}}})
    assert answer.json() == {"deleted": 2}
    assert sorted(item["text"] for item in await items_of(http, "room")) == ["aqua", "晚安"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"collection": "room"}, 422, "exactly one of `query`, `id` and `vector`"),
        ({"collection": "room", "query": "草", "id": "a"}, 422, "exactly one of"),
        ({"query": "草"}, 422, "`candidates` or `collection`"),
        ({"query": "草", "candidates": ["草"], "filter": {}}, 422, "`candidates` requires `query`"),
        ({"collection": "room", "query": "草", "top_k": 1001}, 422, "at most 1000"),
        ({"collection": "room", "query": ["草"] * 200, "top_k": 1000}, 413, "lower top_k"),
        ({"collection": "room", "query": "草", "filter": {"room": None}}, 422, "filter.room"),
        ({"collection": "room", "vector": [1.0]}, 422, "1 numbers; expected 16"),
        ({"collection": "room", "vector": [0] * 16}, 422, "not all of them 0"),
        ({"collection": "Room", "query": "草"}, 422, "invalid collection name 'Room'"),
        ({"collection": "nowhere", "query": "草"}, 404, "the collection nowhere does not exist"),
        ({"collection": "room", "id": "nobody"}, 404, "no danmaku 'nobody'"),
    ],
)
async def test_an_invalid_search_is_explained(
    http: httpx.AsyncClient, body: dict[str, object], status: int, message: str
) -> None:
    answer = await http.post("/similar", json=body)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


async def test_collections_are_listed_described_and_dropped(http: httpx.AsyncClient) -> None:
    await until_made(http)
    listed = (await http.get("/collections")).json()["collections"]
    assert [info["name"] for info in listed] == ["default", "room"]
    assert (await http.get("/collections/room")).json()["dim"] == 16
    assert (await http.delete("/collections/room")).status_code == 200
    assert (await http.get("/collections/room")).status_code == 404
    assert (await http.put("/collections/no.name")).status_code == 422


async def test_metrics_do_not_name_collections(http: httpx.AsyncClient) -> None:
    await add(http, "草")
    await similar(http, query="草")
    metrics = (await http.get("/metrics")).text

    assert 'danmaku_requests_total{outcome="ok",route="/collections/{name}/danmaku"} 1.0' in metrics
    assert "danmaku_search_seconds_count 1.0" in metrics
    assert "/collections/room" not in metrics


async def test_items_before_the_error_of_a_stream_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    async with gateway(tiny_model, tmp_path / "collections", max_body_bytes=100) as http:
        await http.put("/collections/room")
        body = '"草"\n{"text"\n\n"晚安"\n'
        answer = await http.post("/collections/room/danmaku", content=body, headers=NDJSON)
        assert (answer.json()["added"], answer.json()["reasons"][0]["index"]) == (2, 1)

        answer = await http.post("/collections/room/danmaku", content=f'"aqua"\n"{"草" * 99}"', headers=NDJSON)
        assert (answer.status_code, answer.json()["error_type"]) == (413, "too_large")
        assert "the first 1 lines were processed: 1 added" in answer.json()["error"]
        assert (await http.get("/collections/room")).json()["count"] == 3


async def test_a_late_response_is_a_504(http: httpx.AsyncClient) -> None:
    body = json.dumps([{"text": "草" + "哈" * (n % 9) + "好" * (n // 9)} for n in range(200)])
    answer = await http.post("/collections/room/danmaku", content=body, headers=JSON | {"X-Timeout-Ms": "1"})
    assert (answer.status_code, answer.json()["error_type"]) == (504, "out_of_time")


def test_a_hundred_thousand_lines_take_no_more_memory(tiny_model: Path, tmp_path: Path) -> None:
    def lines(first: int, count: int) -> object:
        for number in range(first, first + count):
            yield b'{"text": "\xe8\x8d\x89", "id": "%d", "metadata": {"n": %d}}\n' % (number % 500, number)

    with serving("--collections", f"sqlite://{tmp_path}/c", model=f"onnx://{tiny_model}") as (http, process):
        http.put("/collections/room")
        post = "/collections/room/danmaku"
        http.post(post, content=lines(0, 5_000), headers=NDJSON)
        before = psutil.Process(process.pid).memory_info().rss
        answer = http.post(post, content=lines(5_000, 100_000), headers=NDJSON).json()
        assert answer["added"] + answer["replaced"] > 500
        assert http.get("/collections/room").json()["count"] == 500
        assert psutil.Process(process.pid).memory_info().rss - before < 60 * 2**20


# A change of model


async def test_a_new_model_requires_a_rebuild(tiny_model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "collections"
    async with gateway(tiny_model, directory) as http:
        await http.put("/collections/room")
        texts = ["草", "晚安", "aqua"]
        await add(http, "草", *({"text": text, "id": f"i{text}", "metadata": {"room": 3}} for text in texts))
        before = await items_of(http, "room")
    async with gateway(tiny_model, directory, pooling_strategy="CLS_TOKEN") as http:
        for path, body in (("/similar", {"collection": "room", "query": "草"}), ("/collections/room/danmaku", ["草"])):
            answer = await http.post(path, json=body)
            assert (answer.status_code, answer.json()["error_type"]) == (409, "fingerprint_mismatch")
            assert "danmaku collections rebuild room" in answer.json()["error"]
        lines = [json.loads(line) for line in (await http.post("/collections/room/rebuild")).text.splitlines()]
        assert lines[-1] == {"done": 4, "total": 4, "finished": True, "lost": 0, "reasons": []}
        assert await items_of(http, "room") == before
        assert (await similar(http, query="草"))[0]["score"] == pytest.approx(1, abs=1e-3)
        assert [info["name"] for info in (await http.get("/collections")).json()["collections"]] == ["default", "room"]


async def test_changes_during_a_rebuild_are_not_lost(
    tmp_path: Path, recording_encoder: RecordingEncoder, metrics: Metrics
) -> None:
    """There are deletions here and additions by gateways of the former model; the collection stays
    readable throughout.
    """
    encoder, cache = recording_encoder, MemoryCache(max_bytes=2**20, metrics=metrics)
    store = await open_store(f"sqlite://{tmp_path}/c")
    async with Embedder(encoder, cache, metrics) as embedder:
        collections = Collections(store, embedder, metrics)
        await store.create("room", dim=1, fingerprint="before")
        one = np.ones(1, np.float32)
        await store.put("room", [Item(f"{n:04}", f"text {n}", one, {"n": n % 2}, count=n + 1) for n in range(600)])
        steps = 0
        async for progress in collections.rebuild("room"):
            steps += 1
            if not progress.is_finished:
                assert (await store.describe("room")).fingerprint == "before"
            if steps == 1:
                await collections.delete("room", ["0000", "0599"])
                await store.put("room", [Item("0-late", "late", one, {}), Item("0001", "text 1", one, {}, count=40)])
                assert [info.name for info in await collections.list()] == ["room"]
                with pytest.raises(Exception, match="is already being rebuilt"):
                    await anext(aiter(collections.rebuild("room")))

        info = await store.describe("room")
        there = await store.get("room", ["0000", "0599", "0-late", "0001", "0007"])
        assert (info.fingerprint, info.dim, info.count) == (encoder.model.fingerprint, 2, 599)
        assert {item_id: item.count for item_id, item in there.items()} == {"0-late": 1, "0001": 42, "0007": 8}
        assert [info.name for info in await store.list()] == ["room"]
        assert (progress.is_finished, progress.lost) == (True, 0)
    await store.close()


async def test_an_interrupted_rebuild_is_continued(
    tmp_path: Path, recording_encoder: RecordingEncoder, metrics: Metrics
) -> None:
    encoder, cache = recording_encoder, MemoryCache(max_bytes=0, metrics=metrics)
    store = await open_store(f"sqlite://{tmp_path}/c")
    async with Embedder(encoder, cache, metrics) as embedder:
        collections = Collections(store, embedder, metrics)
        await store.create("room", dim=1, fingerprint="before")
        one = np.ones(1, np.float32)
        await store.put("room", [Item(f"{n:04}", f"text {n}" if n else "?", one, {}) for n in range(600)])
        begun = collections.rebuild("room")
        await anext(begun)
        await begun.aclose()
        encoder.calls.clear()
        last = [progress async for progress in collections.rebuild("room")][-1]

        assert "text 5" not in {text for call in encoder.calls for text in call}
        assert (last.lost, last.reasons[0][0]) == (1, "0000")
        assert (await store.describe("room")).count == 599
    await store.close()


# The collection by default, and where collections are


def test_the_default_danmaku_are_those_of_the_recipe() -> None:
    assert read_danmaku() == (ROOT / "training" / "pictures" / "words.txt").read_text(encoding="utf-8").splitlines()


async def test_the_first_search_of_a_new_gateway_finds_something(tmp_path: Path) -> None:
    async with gateway(ROOT / "models" / "danmaku-bert-mini", tmp_path / "c") as http:
        await until_made(http)
        assert (await similar(http, collection="default", query="草"))[0]["text"] == "草"


async def test_the_default_collection_follows_the_model_and_stays_dropped(tiny_model: Path, tmp_path: Path) -> None:
    async with gateway(tiny_model, tmp_path / "c") as http:
        before = await until_made(http)
    async with gateway(tiny_model, tmp_path / "c", pooling_strategy="CLS_TOKEN") as http:

        async def follows() -> bool:
            return (await until_made(http))["fingerprint"] != before["fingerprint"]

        await until(follows)
        assert (await until_made(http))["count"] == before["count"]
        assert (await http.delete("/collections/default")).status_code == 200
    async with gateway(tiny_model, tmp_path / "c") as http:
        await until(lambda: "default collection" not in {task.get_name() for task in asyncio.all_tasks()})
        assert (await http.get("/collections/default")).status_code == 404


async def test_two_gateways_do_not_share_a_directory(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An explicit setting fails; the default starts without collections."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DANMAKU_COLLECTIONS")
    async with gateway(tiny_model, tmp_path / "danmaku-collections"):
        with pytest.raises(ConfigurationError, match="is in use by another process"):
            async with gateway(tiny_model, tmp_path / "danmaku-collections"):
                pass
        app = create_app(Settings(encoder=f"onnx://{tiny_model}", threads=1))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                answer = await http.get("/collections")
                assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")
                assert "in use by another process" in answer.json()["error"]
                assert (await http.post("/embed", json=["草"])).status_code == 200
