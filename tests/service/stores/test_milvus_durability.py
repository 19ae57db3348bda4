"""Milvus and gateways are killed with SIGKILL while danmaku are added: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import writing
from load import some_texts
from processes import ROOT, RunningMilvus, running_milvus, serving
from stored import until

from service.errors import StoreUnavailable
from service.stores.base import Store
from service.stores.open import open_store

KILLS = int(os.environ.get("KILLS", "2"))


def write_and_kill(server: RunningMilvus, first: list[int], after_s: float, *, kill_server: bool) -> list[int]:
    """Lets a process write, kills it or the server; returns how many steps of each task were acknowledged."""
    command = [sys.executable, str(ROOT / "tests" / "writing.py"), server.url, *map(str, first)]
    done = list(first)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        victim = server.process if kill_server else process
        for number, line in enumerate(process.stdout):
            if number == 0:  # it has started
                threading.Timer(after_s, victim.kill).start()
            if line.endswith("\n"):
                task, step = map(int, line.split())
                assert step == done[task]
                done[task] += 1
    if kill_server:
        server.restart()
    return done


async def everything(store: Store, name: str) -> dict[str, str]:
    found, after = {}, None
    while True:
        page = await store.page(name, after=after, limit=1000)
        found |= {item.id: item.text for item in page.items}
        if (after := page.next) is None:
            return found


async def answers(store: Store, name: str) -> bool:
    try:
        return (await store.describe(name)).count >= 0
    except StoreUnavailable:
        return False


async def test_acknowledged_changes_survive_kills_of_server_and_writer(tmp_path: Path) -> None:
    """Unacknowledged work is there completely or not at all."""
    steps = [0] * writing.TASKS
    chance = random.Random(KILLS)
    with running_milvus(tmp_path, COMMON_SESSION_TTL="15") as server:
        for number in range(KILLS):
            acknowledged = await asyncio.to_thread(
                write_and_kill, server, steps, chance.uniform(0.0, 2.0), kill_server=number % 2 == 0
            )
            assert sum(acknowledged) > sum(steps)
            store = await open_store(server.url)
            await until(lambda store=store: answers(store, writing.COLLECTION), timeout_s=240)
            found = await everything(store, writing.COLLECTION)
            for task, done in enumerate(acknowledged):
                mine = {item_id: text for item_id, text in found.items() if item_id.startswith(f"{task} ")}
                possible = [steps for steps in (done, done + 1) if writing.made_by(task, steps) == mine]
                assert possible, f"task {task} had done {done} steps"
                steps[task] = possible[0]
            await store.close()
            print(f"kill {number + 1}: {sum(acknowledged)} steps, {len(found)} danmaku, nothing lost")


async def test_a_killed_gateway_loses_nothing_and_the_other_fails_nothing(tmp_path: Path, tiny_model: Path) -> None:
    outcomes: Counter[str] = Counter()
    acknowledged: set[str] = set()

    async def add(http: httpx.AsyncClient, who: str) -> None:
        for number, text in enumerate(some_texts(5000)):
            items = [{"id": f"{who}{number}", "text": text}]
            try:
                answer = await http.post("/collections/room/danmaku", json=items, timeout=60)
                outcomes[f"{who} {answer.status_code}"] += 1
                if answer.status_code == 200 and answer.json()["added"]:
                    acknowledged.add(f"{who}{number}")
            except httpx.TransportError:
                outcomes[f"{who} broken"] += 1
                return

    def added(who: str) -> int:
        return outcomes[f"{who} 200"]

    with running_milvus(tmp_path) as server:
        flags = ("--collections", server.url, "--access-log", "false")
        with (
            serving(*flags, model=f"onnx://{tiny_model}") as (first, _),
            serving(*flags, model=f"onnx://{tiny_model}") as (second, victim),
        ):
            first.put("/collections/room").raise_for_status()
            async with (
                httpx.AsyncClient(base_url=first.base_url) as one,
                httpx.AsyncClient(base_url=second.base_url) as other,
            ):
                tasks = [asyncio.create_task(add(one, "a")), asyncio.create_task(add(other, "b"))]
                await until(lambda: min(added("a"), added("b")) > 50)
                victim.kill()
                seen = added("a")
                await until(lambda: added("a") > seen + 100)
                tasks[0].cancel()
                await asyncio.wait(tasks)
            assert {name for name in outcomes if not name.endswith(" 200")} == {"b broken"}
            store = await open_store(server.url)
            assert len(acknowledged) > 100
            assert acknowledged <= (await everything(store, "room")).keys()
            await store.close()
