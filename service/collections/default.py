"""Keeps the collection `default`: about ninety bundled danmaku, so that a first search has a result.

It is made once, and an empty collection with an internal name records that: after a user drops `default`, it is not
made again. While it is small, it is rebuilt automatically when the model changes.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.resources import files

from service.collections.collections import Collections, Entry
from service.errors import DanmakuError, EncoderUnavailable, Overloaded

log = logging.getLogger("danmaku")

DEFAULT = "default"
MADE = "default.made"
MOST_ITEMS = 1000  # re-embedded automatically: a second of work


def read_danmaku() -> list[str]:
    return files("service.collections").joinpath("default.txt").read_text(encoding="utf-8").splitlines()


async def keep_default(collections: Collections) -> None:
    """Creates or rebuilds the default collection as soon as a model is available."""
    while True:
        try:
            return await _keep_default(collections)
        except (EncoderUnavailable, Overloaded):
            await asyncio.sleep(1)
        except DanmakuError as error:
            return log.warning("The collection %s could not be created or rebuilt: %s.", DEFAULT, error)
        except Exception:
            return log.exception("The collection %s could not be created or rebuilt.", DEFAULT)


async def _keep_default(collections: Collections) -> None:
    infos = {info.name: info for info in await collections.store.list()}
    if MADE not in infos:
        if DEFAULT not in infos or infos[DEFAULT].count == 0:
            await collections.create(DEFAULT)
            await collections.add(DEFAULT, [Entry(text) for text in read_danmaku()])
        await collections.store.create(MADE, dim=1, fingerprint="")
    elif DEFAULT in infos and infos[DEFAULT].count <= MOST_ITEMS:
        async for _ in collections.rebuild(DEFAULT):
            pass
