"""Logs destructive actions: which key dropped or rebuilt a collection, or deleted danmaku by a filter."""

from __future__ import annotations

import logging

from service.accounts import current_account

log = logging.getLogger("danmaku.audit")


def audit(deed: str, *arguments: object) -> None:
    """Logs an action of the caller's key with the request's id. `deed` begins with a verb and contains no text."""
    account = current_account.get()
    who = f"Key {account.name!r}" if account else "A caller without a key"
    log.info("%s " + deed + ".", who, *arguments)
