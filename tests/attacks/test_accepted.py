"""What is accepted can always be answered: metadata, filters and bodies have limits, and damaged rows harm only
themselves.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import orjson
import pytest
from conftest import ClientOf

from service.settings import Settings
from service.stores.base import Item
from service.stores.filters import parse
from service.stores.sqlite.store import SqliteStore

JSON = {"content-type": "application/json"}
DEPTHS = [1, 31, 32, 60, 100, 248, 249, 250, 251, 252, 253, 260, 1000, 100_000]


def nested(levels: int) -> bytes:
    """Metadata, as JSON, of that many levels of lists and objects."""
    return b'{"b":' + b"[" * (levels - 1) + b"1" + b"]" * (levels - 1) + b"}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(collections=f"sqlite://{tmp_path}")


async def test_metadata_that_was_added_is_in_every_answer(client_of: ClientOf, settings: Settings) -> None:
    async with client_of(settings) as http:
        await http.put("/collections/room")
        added = []
        for levels in DEPTHS:
            body = b'[{"text":"aa","id":"%d","metadata":%b}]' % (levels, nested(levels))
            answer = await http.post("/collections/room/danmaku", content=body, headers=JSON)
            assert answer.status_code in (200, 422)
            if answer.status_code == 200 and answer.json()["added"]:
                added.append(str(levels))

        assert added == ["1", "31", "32"]
        found = await http.post("/similar", json={"query": "aa", "collection": "room"})
        assert {match["id"] for match in found.json()["results"][0]["matches"]} == set(added)
        assert (await http.get("/collections/room/danmaku")).status_code == 200
        assert (await http.get("/collections/room/map")).status_code == 200
        assert (await http.get("/collections/room/danmaku/32")).json()["metadata"] == orjson.loads(nested(32))


@pytest.mark.parametrize("route", ["/similar", "/collections/room/delete"])
@pytest.mark.parametrize("levels", [20, 100, 250, 1000, 100_000])
async def test_a_deep_filter_is_invalid(client_of: ClientOf, settings: Settings, route: str, levels: int) -> None:
    async with client_of(settings) as http:
        await http.put("/collections/room")
        for filter in (nested(levels), b'{"not":' * levels + b"{}" + b"}" * levels):
            body = b'{"filter":%b%b}' % (filter, b',"query":"aa","collection":"room"' if route == "/similar" else b"")
            answer = await http.post(route, content=body, headers=JSON)

            assert (answer.status_code, answer.json()["error_type"]) == (422, "invalid_request")


@pytest.mark.parametrize("route", ["/embed", "/tokenize", "/v1/embeddings", "/similar", "/encode", "/playground/embed"])
async def test_a_deep_body_is_the_callers_fault(client_of: ClientOf, route: str) -> None:
    async with client_of(Settings()) as http:
        for body in (b"[" * 1000 + b"]" * 1000, b"[" * 1_000_000, b'{"id":' + nested(900) + b',"texts":["aa"]}'):
            assert (await http.post(route, content=body, headers=JSON)).status_code in (400, 413, 422)


async def test_an_old_store_with_deep_metadata_serves_the_others(client_of: ClientOf, settings: Settings) -> None:
    async with client_of(settings) as http:
        await http.put("/collections/room")
        await http.post("/collections/room/danmaku", json=[{"text": "aa", "id": "deep"}, {"text": "ab", "id": "other"}])
    with contextlib.closing(sqlite3.connect(f"{settings.collections[9:]}/collections.db")) as database:
        number = database.execute("SELECT number FROM collections WHERE name = 'room'").fetchone()[0]
        database.execute(f"UPDATE items_{number} SET metadata = ? WHERE id = 'deep'", (nested(250),))
        database.commit()

    async with client_of(settings) as http:
        found = await http.post("/similar", json={"query": "aa", "collection": "room"})
        assert {match["id"] for match in found.json()["results"][0]["matches"]} == {"deep", "other"}
        page = (await http.get("/collections/room/danmaku")).json()["danmaku"]
        assert [(item["id"], item["metadata"]) for item in page] == [("deep", {}), ("other", {})]
        assert (await http.delete("/collections/room/danmaku/deep")).json() == {"deleted": 1}


DAMAGES = {
    "no vector": "DELETE FROM vectors_{0} WHERE number = {1}",
    "short vector": "UPDATE vectors_{0} SET vector = x'00' WHERE number = {1}",
    "vector of another length": "UPDATE vectors_{0} SET vector = zeroblob(10) WHERE number = {1}",
    "vector that is text": "UPDATE vectors_{0} SET vector = 'abcdefgh' WHERE number = {1}",
    "vector that is null": "INSERT OR REPLACE INTO vectors_{0} VALUES ({1}, 7)",
    "expiry that is text": "UPDATE items_{0} SET expires_at = 'soon' WHERE number = {1}",
    "metadata that are not JSON": "UPDATE items_{0} SET metadata = x'ff' WHERE number = {1}",
    "metadata that are a list": "UPDATE items_{0} SET metadata = '[1]' WHERE number = {1}",
    "metadata that are a number": "UPDATE items_{0} SET metadata = 7 WHERE number = {1}",
    "count that is text": "UPDATE items_{0} SET count = 'many' WHERE number = {1}",
    "vector without an item": "INSERT INTO vectors_{0} VALUES (2, zeroblob(8))",
    "collection of another dim": "INSERT INTO collections (name, dim, fingerprint) VALUES ('odd', 'x', 7)",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_row_harms_only_itself(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    vectors = np.eye(4, dtype=np.float32)
    items = [Item(id, id, vectors[place], {"room": place}) for place, id in enumerate("abcd")]
    store = await SqliteStore.open(tmp_path)
    await store.create("room", dim=4, fingerprint="f")
    await store.put("room", items)
    await store.delete("room", ["b"])  # a gap in the numbers, where a vector may be left over
    await store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "collections.db")) as database:
        database.execute(damage.format(1, 1))
        database.commit()

    store = await SqliteStore.open(tmp_path)
    try:
        for place, id in ((2, "c"), (3, "d")):
            (matches,) = await store.search("room", vectors[place : place + 1], top_k=1)
            assert [(match.item.id, round(match.score, 3)) for match in matches] == [(id, 1.0)]
        (matches,) = await store.search("room", vectors[:1], top_k=3, filter=parse({"room": {"gte": 0}}))
        assert {match.item.id for match in matches} >= {"c", "d"}
        assert [item.id for item in (await store.page("room", limit=10)).items] == ["a", "c", "d"]
        assert store.damaged == len([each for each in caplog.messages if "left out: 'a'" in each])

        assert await store.put("room", items[:1])  # it can be replaced …
        (matches,) = await store.search("room", vectors[:1], top_k=1)
        assert [match.item.id for match in matches] == ["a"]
        assert await store.delete("room", ["a"]) == 1  # … and deleted
        assert await store.search("room", vectors[:1], top_k=1, min_score=0.5) == [[]]
    finally:
        await store.close()
