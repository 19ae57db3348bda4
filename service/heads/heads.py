"""Manages the heads that a gateway serves, and replaces a head when its folder changes.

Training replaces a folder by renaming, but people copy its files one after the other, so the folder is checked once a
second and read again whenever one of its files has changed. A request keeps the heads that it began with, so its
answers are of one version. A newer folder that cannot be used is logged and ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from service.encoders.model import Model
from service.errors import ConfigurationError, FingerprintMismatch, HeadError, NotFound
from service.heads.folder import ARRAYS, DESCRIPTION, read_head
from service.heads.head import Head
from service.metrics import Metrics

log = logging.getLogger("danmaku")

LOOK_EVERY_S = 1.0
Seen = tuple[tuple[int, int], ...] | None  # identifies a file's version: its inode and time


class Heads:
    """The heads by folder name, in the order of the settings."""

    def __init__(self, paths: Sequence[Path], metrics: Metrics) -> None:
        """Reads all of them. Raises HeadError, or ConfigurationError for two of one name."""
        self._paths = {path.resolve().name: path for path in paths}
        if len(self._paths) < len(paths):
            raise ConfigurationError("invalid heads: two folders have the same name, by which requests choose a head")
        self._seen = {name: _look_at(path) for name, path in self._paths.items()}
        self._heads = {name: read_head(path) for name, path in self._paths.items()}
        self._metrics = metrics

    @property
    def loaded(self) -> dict[str, Head]:
        return dict(self._heads)

    def check(self, model: Model) -> None:
        """Raises HeadError that names both fingerprints if a head belongs to another encoder than `model`."""
        for name, head in self._heads.items():
            head.check(model.fingerprint, model.name, str(self._paths[name]))

    def select(self, names: Sequence[str] | None, model: Model) -> dict[str, Head]:
        """Returns heads by name, all by default. Raises NotFound, or FingerprintMismatch for another model's."""
        if not self._heads:
            raise NotFound("this gateway has no heads; --heads DIR loads what `danmaku-train classify` writes")
        chosen = {}
        for name in self._heads if names is None else names:
            if name not in self._heads:
                raise NotFound(f"no head {name[:80]!r}; expected one of {', '.join(self._heads)}")
            chosen[name] = head = self._heads[name]
            try:
                head.check(model.fingerprint, model.name, f"the head {name!r}")
            except HeadError as error:
                raise FingerprintMismatch(str(error)) from None
        return chosen

    async def watch(self) -> None:
        """Replaces heads whose folders change, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for name, path in self._paths.items():
                seen = await asyncio.to_thread(_look_at, path)
                if seen is not None and seen != self._seen[name]:  # absent for a moment while it is replaced
                    self._seen[name] = seen
                    await self._exchange(name, path)

    async def _exchange(self, name: str, path: Path) -> None:
        current = self._heads[name]
        try:
            head = await asyncio.to_thread(read_head, path)
            if head.encoder.fingerprint != current.encoder.fingerprint:
                raise HeadError(
                    f"{path} is now for the fingerprint {head.encoder.fingerprint}; expected "
                    f"{current.encoder.fingerprint}, as before"
                )
        except HeadError as error:
            self._metrics.head_changes[name, "refused"].inc()
            return log.error("The head %s stays at version %s: %s", name, current.version, error)
        self._heads[name] = head
        self._metrics.head_changes[name, "exchanged"].inc()
        log.info("The head %s changed from version %s to %s.", name, current.version, head.version)


def _look_at(path: Path) -> Seen:
    try:
        files = [(path / name).stat() for name in (DESCRIPTION, ARRAYS)]
    except OSError:
        return None
    return tuple((status.st_ino, status.st_mtime_ns) for status in files)
