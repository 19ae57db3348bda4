"""Replays a file of danmaku against a gateway, in order, and measures the gateway's cache hit rate."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import BinaryIO

import aiohttp
import orjson
from danmaku_client import AsyncClient
from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from service.commands.bench.load import Load, Request, Result, open_load
from service.event_loop import handle_signal

SHOW_EVERY_S = 0.5
METRICS_TIMEOUT_S = 5.0


async def replay(source: BinaryIO, parsed: argparse.Namespace, api_key: str | None) -> tuple[Result, float | None]:
    """Returns the result and the hit rate of all cache look-ups of the gateway meanwhile, None if unknown.

    Ctrl-C ends it early. Raises GatewayError if the gateway does not answer at the start.
    """
    async with AsyncClient(parsed.url, api_key, timeout_s=parsed.timeout_s) as client:
        await client.info()
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with open_load(parsed.url, api_key, parsed.timeout_s) as load:
        before = await _count_lookups(parsed.url, headers)
        with _stop_on_signal(load, parsed.seconds), _show_progress(load.result, parsed):
            requests = islice(read_requests(source, parsed.texts_per_request, parsed.encoding), parsed.requests)
            if parsed.rate:
                await load.run_open_loop(requests, parsed.rate)
            else:
                await load.run_closed_loop(requests, parsed.concurrency)
        after = await _count_lookups(parsed.url, headers)
    if before is None or after is None:
        return load.result, None
    lookups, hits = after[0] - before[0], after[1] - before[1]
    return load.result, hits / lookups if lookups > 0 else None


def read_requests(source: BinaryIO, texts_per_request: int, encoding: str) -> Iterator[Request]:
    while lines := list(islice(source, texts_per_request)):
        texts = [line.rstrip(b"\r\n").decode(errors="replace") for line in lines]
        yield Request(orjson.dumps({"texts": texts, "encoding": encoding}), len(texts))


async def _count_lookups(url: str, headers: dict[str, str]) -> tuple[float, float] | None:
    """Returns the numbers of texts looked up and found so far, in any tier; None if /metrics does not tell."""
    with suppress(aiohttp.ClientError, TimeoutError, ValueError):
        timeout = aiohttp.ClientTimeout(total=METRICS_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout, raise_for_status=True) as session,
            session.get(f"{url.rstrip('/')}/metrics") as response,
        ):
            families = list(text_string_to_metric_families(await response.text()))
        by_labels = {
            (sample.labels.get("tier"), sample.labels.get("result")): sample.value
            for family in families
            for sample in family.samples
            if sample.name == "danmaku_cache_lookups_total"
        }
        if ("memory", "hit") in by_labels:
            # A text that memory misses is looked up in Redis and still counts once.
            lookups = by_labels["memory", "hit"] + by_labels.get(("memory", "miss"), 0)
            return lookups, by_labels["memory", "hit"] + by_labels.get(("redis", "hit"), 0)
    return None


@contextmanager
def _stop_on_signal(load: Load, seconds: float | None) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    stop_handling = handle_signal(signal.SIGINT, load.stop)
    timer = loop.call_later(seconds, load.stop) if seconds else None
    try:
        yield
    finally:
        stop_handling()
        if timer:
            timer.cancel()


@contextmanager
def _show_progress(result: Result, parsed: argparse.Namespace) -> Iterator[None]:
    is_quiet = parsed.quiet or not sys.stderr.isatty()
    with tqdm(total=parsed.requests, disable=is_quiet, unit=" requests") as bar:

        def update() -> None:
            failed = sum(result.errors.values()) - result.refused
            bar.set_postfix_str(f"{result.refused:,} refused, {failed:,} failed", refresh=False)
            bar.update(result.requests - bar.n)

        async def keep_updating() -> None:
            while not is_quiet:
                await asyncio.sleep(SHOW_EVERY_S)
                update()

        task = asyncio.create_task(keep_updating())
        try:
            yield
        finally:
            task.cancel()
            if not is_quiet:
                update()
