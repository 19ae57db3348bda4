"""Stores to test; a Milvus for each file, emptied for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from processes import RunningMilvus, running_milvus
from stored import DIM, C

from service.stores.base import Store
from service.stores.milvus.store import MilvusStore
from service.stores.open import open_store

PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a server may get no processor for seconds. What happens when it hangs has tests of its own,
    which say how long to wait.
    """
    monkeypatch.setattr(MilvusStore, "open", partial(MilvusStore.open, answer_timeout_s=PATIENCE_S))


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMilvus]:
    """Ends with the file: an idle Milvus takes a third of a core from the tests that follow."""
    with running_milvus(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture
async def empty_milvus(milvus: RunningMilvus) -> str:
    """Its Milvus collections are kept, because making one takes seconds."""
    store = await open_store(milvus.url)
    for info in await store.list():
        await store.drop(info.name)
    await store.close()
    return milvus.url


@pytest.fixture(params=["sqlite", "milvus"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'collections'}"
    url: str = request.getfixturevalue("empty_milvus")
    return url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """A store with one empty collection."""
    store = await open_store(url)
    await store.create(C, dim=DIM, fingerprint="f0")
    yield store
    await store.close()
