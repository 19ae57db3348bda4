"""A browser, Debian's Chromium, and a gateway with the bundled model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import httpx
import pytest
from browsing import FLAGS, PATIENCE_MS
from playwright.sync_api import Browser, expect, sync_playwright
from processes import serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "chromium is not installed; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
        with playwright.chromium.launch(executable_path=program, args=FLAGS) as browser:
            yield browser


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    collections = f"sqlite://{tmp_path_factory.mktemp('collections')}"
    with serving("--collections", collections, "--access-log", "false") as (client, _):
        yield client
