"""The embedded store after failures: killed processes, full disks, two gateways on one directory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import writing
from stored import until

from service.errors import ConfigurationError, StorageFull, StoreUnavailable
from service.stores.base import Item, Store
from service.stores.open import open_store
from service.stores.sqlite.store import SqliteStore
from service.stores.sqlite.tuning import Tuning

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("KILLS", "3"))


def write_and_kill(url: str, first: list[int], after_s: float) -> list[int]:
    """Lets a process write and kills it; returns how many steps of each task it acknowledged."""
    command = [sys.executable, str(ROOT / "tests" / "writing.py"), url, *map(str, first)]
    done = list(first)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            if number == 0:  # it has started
                threading.Timer(after_s, process.kill).start()
            if line.endswith("\n"):
                task, step = map(int, line.split())
                assert step == done[task]
                done[task] += 1
    assert process.returncode == -9
    return done


async def everything(store: Store) -> dict[str, str]:
    found, after = {}, None
    while True:
        page = await store.page(writing.COLLECTION, after=after, limit=1000)
        found |= {item.id: item.text for item in page.items}
        if (after := page.next) is None:
            return found


async def test_files_of_others_in_its_directory_stay_as_they_are(tmp_path: Path) -> None:
    others = {"thesis.tmp": b"a", "network.graph": b"b", "lock": b"c"}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "7.graph").write_bytes(b"left by a killed process")

    await (await SqliteStore.open(tmp_path)).close()

    assert {name: (tmp_path / name).read_bytes() for name in others} == others
    assert not (tmp_path / "7.graph").exists()


async def test_acknowledged_changes_survive_a_kill(tmp_path: Path) -> None:
    """Unacknowledged work is there completely or not at all, in the database and in searches."""
    url = f"sqlite://{tmp_path}"
    steps = [0] * writing.TASKS
    chance = random.Random(KILLS)
    for _ in range(KILLS):
        acknowledged = await asyncio.to_thread(write_and_kill, url, steps, chance.uniform(0.0, 2.0))
        assert sum(acknowledged) > sum(steps)
        with contextlib.closing(sqlite3.connect(tmp_path / "collections.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store = await open_store(url)
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
        found = await everything(store)
        for task, done in enumerate(acknowledged):
            mine = {item_id: text for item_id, text in found.items() if item_id.startswith(f"{task} ")}
            possible = [steps for steps in (done, done + 1) if writing.made_by(task, steps) == mine]
            assert possible, f"task {task} had done {done} steps"
            steps[task] = possible[0]
        assert (await store.describe(writing.COLLECTION)).count == len(found)
        sample = chance.sample(sorted(found), 50)
        queries = np.array([writing.vector_of(found[item_id]) for item_id in sample])
        matches = await store.search(writing.COLLECTION, queries, top_k=1)
        assert [matched[0].item.id for matched in matches] == sample
        await store.close()


def items(first: int, count: int) -> list[Item]:
    return [Item(f"d{n}", "草" * 50, writing.vector_of(f"{n}"), {"n": n}) for n in range(first, first + count)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
async def full(small_disk: Path) -> AsyncIterator[tuple[Store, int]]:
    """A store on a disk without room, and how many items it acknowledged."""
    (small_disk / "other").write_bytes(bytes(2**20))
    store = await open_store(f"sqlite://{small_disk / 'collections'}")
    await store.create(writing.COLLECTION, dim=writing.DIM, fingerprint="f0")
    count = 0
    with pytest.raises(StorageFull, match="full"):
        while count < 100_000:
            await store.put(writing.COLLECTION, items(count, 100))
            count += 100
    yield store, count
    await store.close()


async def test_a_full_disk_loses_nothing(full: tuple[Store, int], small_disk: Path) -> None:
    """It refuses what does not fit, answers as before, and works again once there is room."""
    store, count = full
    for _ in range(3):
        with pytest.raises(StorageFull):
            await store.put(writing.COLLECTION, items(count, 100))
    assert len(await everything(store)) == count == (await store.describe(writing.COLLECTION)).count
    (found,) = await store.search(writing.COLLECTION, writing.vector_of("7")[None], top_k=1)
    assert found[0].item.id == "d7"

    (small_disk / "other").unlink()
    changes = await store.put(writing.COLLECTION, items(count, 100))
    assert changes.added == 100
    assert len(await everything(store)) == count + 100


async def test_a_full_disk_can_be_opened_again(full: tuple[Store, int], small_disk: Path) -> None:
    store, count = full
    await store.close()
    (small_disk / "other").unlink()

    again = await open_store(f"sqlite://{small_disk / 'collections'}")
    assert len(await everything(again)) == count
    await again.put(writing.COLLECTION, items(count, 100))
    await again.close()


async def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    """A second process is refused and the first keeps working; once it has ended, another may open it."""
    url = f"sqlite://{tmp_path}"
    store = await open_store(url)
    await store.create(writing.COLLECTION, dim=writing.DIM, fingerprint="f0")
    script = f"import asyncio; from service.stores.open import open_store; asyncio.run(open_store({url!r}))"
    command = [sys.executable, "-c", script]
    second = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert second.returncode == 1
    assert f"{tmp_path} is in use by another process" in second.stderr
    await store.put(writing.COLLECTION, items(0, 10))
    await store.close()
    again = await open_store(url)
    assert len(await everything(again)) == 10
    await again.close()


@pytest.mark.parametrize("url", ["sqlite://", "redit://x", "collections"])
async def test_a_url_that_names_no_store_is_explained(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite:///PATH"):
        await open_store(url)


async def test_an_invalid_directory_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("nothing")
    with pytest.raises(ConfigurationError, match="file cannot be used for collections"):
        await open_store(f"sqlite://{tmp_path / 'file'}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "collections.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigurationError, match="cannot be used as a collection database"):
        await open_store(f"sqlite://{tmp_path / 'other'}")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("PRAGMA user_version = 9")
    (tmp_path / "other.db").replace(tmp_path / "other" / "collections.db")
    with pytest.raises(ConfigurationError, match="version 9"):
        await open_store(f"sqlite://{tmp_path / 'other'}")
    await (await open_store(f"sqlite://{tmp_path / 'third'}")).close()


async def test_a_store_works_without_its_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tuning = Tuning(exact_up_to=200, maintain_every_s=0.01, snapshot_rows=100)
    with caplog.at_level(logging.WARNING):
        store = await SqliteStore.open(tmp_path, tuning)
        await store.create(writing.COLLECTION, dim=writing.DIM, fingerprint="f0")
        (tmp_path / "1.graph").mkdir()  # in its way
        await store.put(writing.COLLECTION, items(0, 500))
        await until(lambda: "1.graph could not be written" in caplog.text)
        await store.close()

    again = await open_store(f"sqlite://{tmp_path}")
    assert len(await everything(again)) == 500
    await again.close()


async def test_a_store_that_lost_its_index_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No caller waits forever, reading still works, and the next start repairs it."""
    store = await open_store(f"sqlite://{tmp_path}")
    await store.create(writing.COLLECTION, dim=writing.DIM, fingerprint="f0")
    await store.put(writing.COLLECTION, items(0, 10))

    def fail(index: object, rows: object) -> None:
        raise MemoryError

    monkeypatch.setattr("service.stores.sqlite.index.Index.add", fail)
    puts = [store.put(writing.COLLECTION, items(10 * n, 10)) for n in range(1, 4)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    with pytest.raises(StoreUnavailable):
        await store.put(writing.COLLECTION, items(50, 10))
    monkeypatch.undo()
    (found,) = await store.search(writing.COLLECTION, writing.vector_of("7")[None], top_k=1)
    assert found[0].item.id == "d7"
    await store.close()

    again = await open_store(f"sqlite://{tmp_path}")
    stored = await everything(again)
    (found,) = await again.search(writing.COLLECTION, writing.vector_of("7")[None], top_k=100)
    assert {match.item.id for match in found} == stored.keys()
    await again.close()
