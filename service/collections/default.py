"""The collection `default`: a hundred danmaku of our own, so that a newcomer's first search has an answer.

Made once. That it was is kept in the store, as an empty collection with an internal name: who drops `default` has
dropped it for good. While it is small, it follows a change of model by itself.
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
MOST_ITEMS = 1000  # that are embedded anew unasked: a second


def danmaku() -> list[str]:
    return files("service.collections").joinpath("default.txt").read_text(encoding="utf-8").splitlines()


async def keep_default(collections: Collections) -> None:
    """Makes it, or brings it up to date; as soon as there is a model."""
    while True:
        try:
            return await _keep_default(collections)
        except (EncoderUnavailable, Overloaded):
            await asyncio.sleep(1)
        except DanmakuError as error:
            return log.warning("The collection %s is not as it should be: %s.", DEFAULT, error)
        except Exception:
            return log.exception("The collection %s is not as it should be.", DEFAULT)


async def _keep_default(collections: Collections) -> None:
    infos = {info.name: info for info in await collections.store.list()}
    if MADE not in infos:
        if DEFAULT not in infos or infos[DEFAULT].count == 0:
            await collections.create(DEFAULT)
            await collections.add(DEFAULT, [Entry(text) for text in danmaku()])
        await collections.store.create(MADE, dim=1, fingerprint="")
    elif DEFAULT in infos and infos[DEFAULT].count <= MOST_ITEMS:
        async for _ in collections.rebuild(DEFAULT):
            pass
