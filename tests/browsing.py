"""Pages of a gateway in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

PATIENCE_MS = 60_000
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextmanager
def opened(
    browser: Browser, url: object, *, refused: bool = False, width: int = 1280, **options: str
) -> Iterator[Page]:
    """Opens the page in a fresh browser context; then checks that the console has no error and no other host was used.

    `refused`: the gateway is expected to refuse something, which the browser logs to its console.
    """
    height = 900 if width > 600 else 800
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    faults: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(str(url))
    yield page
    context.close()
    if refused:
        faults = [fault for fault in faults if not fault.startswith("Failed to load resource")]
    assert faults == []
    assert hosts == {urlsplit(str(url)).netloc}
