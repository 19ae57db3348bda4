"""The map of a collection: places, clusters, and the route that returns them."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ClientOf

from service.collections.map import MOST_CLUSTERS, draw
from service.settings import Settings


def blobs(*sizes: int, dim: int = 16) -> np.ndarray:
    """Returns rows in groups of these sizes that are far apart."""
    random = np.random.default_rng(3)
    middles = random.normal(size=(len(sizes), dim)) * 5
    rows = [middle + random.normal(size=(size, dim)) / 10 for middle, size in zip(middles, sizes, strict=True)]
    return np.concatenate(rows).astype(np.float32)


def test_points_on_a_plane_keep_their_distances() -> None:
    random = np.random.default_rng(1)
    flat = random.normal(size=(50, 2)) * (3, 1)
    turned = flat @ np.linalg.qr(random.normal(size=(16, 2)))[0].T + 7
    drawn = draw(turned.astype(np.float32))

    def distances(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[:, None] - points[None], axis=2)

    assert distances(drawn.places) == pytest.approx(distances(flat), abs=1e-3)
    assert sum(drawn.share) == pytest.approx(1, abs=1e-4)
    assert drawn.share[0] > drawn.share[1]


def test_every_vector_has_a_place() -> None:
    vectors = blobs(30, 20)
    drawn = draw(vectors)

    assert (vectors - drawn.mean) @ drawn.axes.T == pytest.approx(drawn.places, abs=1e-4)
    assert np.linalg.norm(drawn.axes, axis=1) == pytest.approx(1, abs=1e-5)


def test_the_same_vectors_have_the_same_map() -> None:
    first, second = draw(blobs(40, 30, 20)), draw(blobs(40, 30, 20))

    assert np.array_equal(first.places, second.places)
    assert np.array_equal(first.clusters, second.clusters)


def test_separate_groups_are_separate_clusters() -> None:
    """The largest comes first, and each cluster's centre is one of its own rows."""
    sizes = (9, 14, 27, 18, 11, 4, 16)  # as many as are looked for among 99
    drawn = draw(blobs(*sizes))
    groups = np.split(drawn.clusters, np.cumsum(sizes)[:-1])

    assert all(len(set(group)) == 1 for group in groups)
    assert np.bincount(drawn.clusters).tolist() == sorted(sizes, reverse=True)
    assert [drawn.clusters[centre] for centre in drawn.centres] == list(range(len(sizes)))


@pytest.mark.parametrize("count", [1, 2, 3, 300])
def test_few_and_many_rows_have_a_map(count: int) -> None:
    drawn = draw(np.random.default_rng(2).normal(size=(count, 16)).astype(np.float32))

    assert drawn.places.shape == (count, 2)
    assert np.isfinite(drawn.places).all() and np.isfinite(drawn.share).all()
    assert 1 <= len(drawn.centres) <= min(count, MOST_CLUSTERS)
    assert set(drawn.clusters.tolist()) == set(range(len(drawn.centres)))


def test_rows_that_are_all_alike_are_one_cluster() -> None:
    drawn = draw(np.ones((20, 16), np.float32))

    assert (drawn.centres, drawn.share, set(drawn.clusters.tolist())) == ([0], [0, 0], {0})


TEXTS = ["草", "awsl", "阿夸", "哈哈哈", "晚安", "好好好"]


async def test_a_collection_has_a_map(client_of: ClientOf, tmp_path: Path) -> None:
    """A caller can place a vector on it by the axes, and it follows additions."""
    async with client_of(Settings(collections=f"sqlite://{tmp_path}/c")) as http:
        await http.put("/collections/room")
        empty = (await http.get("/collections/room/map")).json()
        await http.post("/collections/room/danmaku", json=TEXTS)
        drawn = (await http.get("/collections/room/map")).json()
        again = (await http.get("/collections/room/map")).json()
        some = (await http.get("/collections/room/map?limit=4")).json()
        embedded = (await http.post("/embed", json={"texts": TEXTS, "normalize": True})).json()

    places = {each["text"]: (each["x"], each["y"]) for each in drawn["danmaku"]}
    vectors = np.array(embedded["embeddings"]) - drawn["mean"]
    assert (empty["count"], empty["danmaku"], empty["clusters"]) == (0, [], [])
    assert drawn == again
    assert (drawn["count"], drawn["fingerprint"]) == (len(TEXTS), embedded["fingerprint"])
    assert sorted(places) == sorted(TEXTS)
    assert vectors @ np.array(drawn["axes"]).T == pytest.approx(np.array([places[t] for t in TEXTS]), abs=2e-3)
    assert sum(each["size"] for each in drawn["clusters"]) == len(TEXTS)
    assert (some["count"], len(some["danmaku"])) == (len(TEXTS), 4)


async def test_a_map_contains_only_the_beginning_of_a_long_text(client_of: ClientOf, tmp_path: Path) -> None:
    async with client_of(Settings(collections=f"sqlite://{tmp_path}/c")) as http:
        await http.put("/collections/room")
        await http.post("/collections/room/danmaku", json=["哈" * 9000])
        (danmaku,) = (await http.get("/collections/room/map")).json()["danmaku"]

    assert danmaku["text"] == "哈" * 200


@pytest.mark.parametrize(
    ("path", "status"), [("none/map", 404), ("room/map?limit=0", 422), ("room/map?limit=x", 422), ("NO/map", 422)]
)
async def test_a_collection_without_a_map_is_refused(
    client_of: ClientOf, tmp_path: Path, path: str, status: int
) -> None:
    async with client_of(Settings(collections=f"sqlite://{tmp_path}/c")) as http:
        await http.put("/collections/room")
        answer = await http.get(f"/collections/{path}")

    assert answer.status_code == status
    assert answer.json()["error"]


async def test_the_playground_route_reports_cache_misses(client: httpx.AsyncClient) -> None:
    """It returns the vectors of /embed and whether they were cached."""
    first = (await client.post("/playground/embed", json={"texts": ["草", "晚安"], "normalize": True})).json()
    again = (await client.post("/playground/embed", json={"texts": ["晚安"], "normalize": True})).json()
    public = (await client.post("/embed", json={"texts": ["草", "晚安"], "normalize": True})).json()

    assert (first["is_cached"], again["is_cached"]) == (False, True)
    assert first["embeddings"] == public["embeddings"]
    assert first["seconds"] > 0
