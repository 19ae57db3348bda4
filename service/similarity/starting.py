"""The collection `default`: a hundred danmaku of our own, so that a newcomer's first search has an answer.

Made once. That it was is kept in the store, as an empty collection with an internal name: who drops `default` has
dropped it for good. While it is small, it follows a change of model by itself.
"""

from __future__ import annotations

import asyncio
import logging
from importlib.resources import files

from service.errors import ConfigurationError, DanmakuError, EncoderUnavailable, NotFound, Overloaded
from service.settings import Settings
from service.similarity.base import Store, open_store
from service.similarity.collections import Collections, Entry

log = logging.getLogger("danmaku")

DEFAULT = "default"
MADE = "default.made"
MOST_ITEMS = 1000  # that are embedded anew unasked: a second
OFF = ("", "none")


def danmaku() -> list[str]:
    return files("service.similarity").joinpath("default.txt").read_text(encoding="utf-8").splitlines()


async def open_or_say(settings: Settings) -> Store | DanmakuError:
    """The store, or what to answer in its place.

    Raises ConfigurationError if one was asked for and cannot be used. The one by default just adds to the gateway: it
    starts without where the directory is read-only, or another gateway was there first.
    """
    if settings.collections in OFF:
        return NotFound("collections are turned off in this gateway; --collections sqlite:///PATH turns them on")
    try:
        return await open_store(settings.collections)
    except ConfigurationError as error:
        if "collections" in settings.model_fields_set:
            raise
        log.warning("No collections: %s. --collections sqlite:///PATH puts them elsewhere.", error)
        return NotFound(
            f"this gateway has no collections, since {error}; --collections sqlite:///PATH puts them elsewhere"
        )


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
