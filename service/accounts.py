"""Manages named API keys: their permissions, rates and quotas, and what they have used today.

A TOML file has a table for each key. It holds hashes, so it reveals no key:

    [bot]
    hash = "…"                  # as `danmaku key` prints it
    texts_per_s = 50            # the rest may be left out
    texts_per_day = 1_000_000
    read_only = true
    collections = ["room-"]     # prefixes of names

A request costs as many texts as it has, and at least 1. It is accepted while its key is not in debt, because its cost
is known only after its body is read; a long list puts its key in debt, and later requests wait until that is paid.
Usage is kept in memory: each gateway counts separately, from its start. The gateway reads a changed file again on
SIGHUP.
"""

from __future__ import annotations

import logging
import math
import re
import time
import tomllib
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from service.errors import ConfigurationError, Forbidden, QuotaSpent, RateExceeded
from service.metrics import Metrics
from service.tasks import retry_overloaded

log = logging.getLogger("danmaku")

NAME = re.compile("[A-Za-z0-9_.-]{1,64}")
UNNAMED = "unnamed"  # the keys of api_key_hashes
BURST_S = 10.0  # of a key's rate may be saved up
DAY_S = 24 * 3600


class Key(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    """The settings of a key in the file."""

    hash: str = Field(pattern="^[0-9a-fA-F]{64}$")
    texts_per_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    texts_per_day: int | None = Field(None, ge=1)
    read_only: bool = False
    collections: tuple[str, ...] | None = None


class Account:
    """A key and what it has used. `clock` returns Unix time in seconds."""

    def __init__(self, name: str, key: Key | None, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        self.name, self._clock = name, clock
        self.requests, self._texts = metrics.add_key(name)
        self._paid_at = clock()
        self.allow(key or Key.model_construct(hash=""))
        self._day, self.texts_today, self.refused_today = self._paid_at // DAY_S, 0, 0

    def allow(self, key: Key) -> None:
        """Sets the limits of the key from now on. Today's usage is kept; debt is not."""
        self.key = key
        self._burst = max(1.0, BURST_S * (key.texts_per_s or 0))
        self._balance = self._burst  # texts; negative is debt

    def check(self) -> None:
        """Raises RateExceeded or QuotaSpent if nothing may be spent now."""
        now = self._pay()
        quota, rate = self.key.texts_per_day, self.key.texts_per_s
        if quota and self.texts_today >= quota:
            retry_after_s = math.ceil(DAY_S - now % DAY_S)
            raise QuotaSpent(
                f"daily quota spent: key {self.name!r} may send {quota} texts per day; retry in {retry_after_s} s",
                retry_after_s,
            )
        if rate and self._balance <= 0:
            retry_after_s = max(1, math.ceil(-self._balance / rate))
            raise RateExceeded(
                f"rate exceeded: key {self.name!r} may send {rate:g} texts per second; retry in {retry_after_s} s",
                retry_after_s,
            )

    def charge(self, texts: int) -> None:
        self._pay()
        self.texts_today += texts
        self._balance -= texts
        self._texts.inc(texts)

    def may_use(self, collection: str) -> bool:
        prefixes = self.key.collections
        return prefixes is None or collection.startswith(prefixes)

    def check_collection(self, name: str, *, writes: bool = False) -> None:
        """Raises Forbidden if the key may not use the collection, or not change it."""
        if not self.may_use(name):
            expected = ", ".join(f"{prefix}*" for prefix in self.key.collections or ())
            raise Forbidden(f"key {self.name!r} may not use collection {name!r}; expected one of {expected or 'none'}")
        if writes and self.key.read_only:
            raise Forbidden(f"key {self.name!r} is read-only; expected a key that may change collections")

    def usage(self) -> dict[str, object]:
        """Returns what was used today and what is allowed."""
        now = self._pay()
        return {
            "key": self.name,
            "texts_today": self.texts_today,
            "texts_per_day": self.key.texts_per_day,
            "texts_per_s": self.key.texts_per_s,
            "refused_today": self.refused_today,
            "day_ends_in_s": math.ceil(DAY_S - now % DAY_S),
        }

    def _pay(self) -> float:
        """Adds the texts earned until now to the balance, and returns the time."""
        now = self._clock()
        if now // DAY_S != self._day:
            self._day, self.texts_today, self.refused_today = now // DAY_S, 0, 0
        earned = max(0.0, now - self._paid_at) * (self.key.texts_per_s or 0)
        self._balance, self._paid_at = min(self._burst, self._balance + earned), now
        return now


class Accounts:
    """All keys, found by their SHA-256."""

    def __init__(self, hashes: Iterable[str], path: str | None, metrics: Metrics) -> None:
        """Raises ConfigurationError if the file cannot be used."""
        self._path, self._metrics = path, metrics
        unnamed = [bytes.fromhex(entry) for entry in hashes]
        self._unnamed = dict.fromkeys(unnamed, Account(UNNAMED, None, metrics)) if unnamed else {}
        self._named: dict[str, Account] = {}
        self._by_digest: dict[bytes, Account] = {}
        self._read()

    def read_again(self) -> None:
        """Applies the current content of the file. If it cannot be used, logs the reason and changes nothing."""
        try:
            self._read()
            log.info("Reloaded %s: %d keys.", self._path, len(self._named))
        except ConfigurationError as error:
            log.error("API keys were not changed: %s", error)

    def _read(self) -> None:
        keys = read_keys(self._path) if self._path else {}
        names: dict[bytes, str] = {}
        for name, key in keys.items():
            digest = bytes.fromhex(key.hash)
            if digest in names or digest in self._unnamed:
                raise ConfigurationError(f"invalid hash of key {name!r} in {self._path}: another key has the same hash")
            names[digest] = name
        before, self._named = self._named, {}
        for name, key in keys.items():
            self._named[name] = account = before.get(name) or Account(name, key, self._metrics)
            if account.key != key:
                account.allow(key)
        self._by_digest = self._unnamed | {digest: self._named[name] for digest, name in names.items()}

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, digest: bytes) -> Account | None:
        # The duration of this reveals something about digests, but nothing about keys.
        return self._by_digest.get(digest)

    def visible_to(self, account: Account | None) -> list[Account]:
        """Returns the accounts whose usage a caller may see: a named key sees its own, other keys see all."""
        if account and account.name != UNNAMED:
            return [account]
        return list(dict.fromkeys(self._by_digest.values()))


def read_keys(path: str) -> dict[str, Key]:
    """Returns the keys of a file by name. Raises ConfigurationError."""
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"invalid api_keys_file {path}: expected a readable TOML file ({error})") from None
    keys = {}
    for name, table in tables.items():
        if not NAME.fullmatch(name) or name == UNNAMED:
            expected = f"1 to 64 of A-Z a-z 0-9 _ . -, and not {UNNAMED!r}"
            raise ConfigurationError(f"invalid name of a key {name!r} in {path}: expected {expected}")
        try:
            keys[name] = Key.model_validate(table)
        except ValidationError as error:
            fault = error.errors()[0]
            what = " of ".join([*map(str, reversed(fault["loc"])), f"key {name!r}"])
            raise ConfigurationError(f"invalid {what} in {path}: {fault['msg']}") from None
    if not keys:
        raise ConfigurationError(f"invalid api_keys_file {path}: no keys; expected a table for each, such as [bot]")
    return keys


current_account: ContextVar[Account | None] = ContextVar("current_account", default=None)


def charge_texts(count: int) -> None:
    """Charges the current request for its texts, of which `RequireKey` has charged the first."""
    if (account := current_account.get()) and count > 1:
        account.charge(count - 1)


async def pay_for_lines(count: int) -> None:
    """Charges the current stream for some of its texts; waits first if they arrive too fast. Raises QuotaSpent."""
    if account := current_account.get():

        async def check() -> None:
            account.check()

        await retry_overloaded(check)
        account.charge(count)
