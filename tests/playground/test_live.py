"""The page for overlays and the tab with the example chat, in a browser over a gateway with the bundled model."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from browsing import opened
from playwright.sync_api import Browser, expect
from processes import free_ports, serving

from service.api.http.keys import hash_key, make_key


def observe(gateway: httpx.Client, room: str, *lines: str) -> None:
    items = [{"text": line, "time": second} for second, line in enumerate(lines)]
    gateway.post(f"/collections/{room}/observe", json=items).raise_for_status()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_the_tab_shows_topics_that_move(browser: Browser, gateway: httpx.Client, width: int, scheme: str) -> None:
    with opened(browser, f"{gateway.base_url}/#live", width=width, color_scheme=scheme) as page:
        expect(page.locator("#search-page")).to_be_hidden()
        frame = page.frame_locator("#stage iframe")
        expect(frame.locator("#topics li").first).to_contain_text("×")
        first = frame.locator("#topics li").first.get_attribute("data-topic")
        expect(frame.locator("#state")).to_contain_text("示例回放")
        expect(frame.locator("#topics li")).not_to_have_count(1)
        expect(frame.locator(f'#topics li[data-topic="{first}"]')).to_be_visible()
        expect(frame.locator("#latest li")).not_to_have_count(0)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.locator("#tabs a").first.click()
        expect(page.locator("#live-page")).to_be_hidden()
        expect(page.locator("#stage iframe")).to_have_count(0)


def test_the_frame_has_the_theme_and_the_language_of_the_page(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, f"{gateway.base_url}/#live", color_scheme="light") as page:
        frame = page.frame_locator("#stage iframe")
        expect(frame.locator("#title")).to_have_text("大家在聊什么")
        page.locator("#language").click()
        page.locator("#theme").click()
        expect(frame.locator("#title")).to_have_text("What the chat is about")
        expect(frame.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_room_is_shown_merged_with_counts(browser: Browser, gateway: httpx.Client) -> None:
    """Opposites are in one topic and not in one count; what an observer adds comes by itself."""
    gateway.put("/collections/room")
    observe(gateway, "room", "声音太小了", "声音太小了！！", "声音太大了", "晚安")
    with opened(browser, f"{gateway.base_url}/live?collection=room") as page:
        expect(page.locator("#topics li")).to_have_count(1)
        expect(page.locator("#topics b")).to_have_text("声音太小了")
        expect(page.locator("#topics .others")).to_have_text("声音太大了")
        expect(page.locator("#topics .first data")).to_have_text("×3")
        expect(page.locator("#latest li")).to_have_text(["晚安", "声音太大了", "声音太小了 ×2"])
        expect(page.locator("#state")).to_have_text("room · 最近一分钟 4 条")
        observe(gateway, "room", "晚安", "晚安", "晚安", "晚安")
        expect(page.locator("#topics li")).to_have_count(2)
        expect(page.locator("#topics li").filter(has_text="晚安")).to_have_attribute(
            "style", "--place: 0; --share: 100%;"
        )


def test_a_transparent_background_and_the_css_of_obs(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, f"{gateway.base_url}/live?background=transparent") as page:
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(background) == "rgba(0, 0, 0, 0)"
        page.add_style_tag(content="body { background-color: rgb(1, 2, 3); }")  # as OBS does
        assert page.evaluate(background) == "rgb(1, 2, 3)"


def test_a_room_that_is_not_there_yet_is_waited_for(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, f"{gateway.base_url}/live?collection=later", refused=True) as page:
        expect(page.locator("#state")).to_contain_text("集合 later 还不存在")
        gateway.put("/collections/later")
        observe(gateway, "later", "草", "草")
        expect(page.locator("#topics b")).to_have_text("草")


def test_a_restart_of_the_gateway_is_survived(browser: Browser, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    flags = ("--collections", f"sqlite://{tmp_path}/c", "--access-log", "false")
    with serving(*flags, port=port) as (first, _):
        first.put("/collections/room")
        observe(first, "room", "草", "草")
        address = f"{first.base_url}/live?collection=room"
        context = opened(browser, address, refused=True)
        page = context.__enter__()
        expect(page.locator("#topics b")).to_have_text("草")
    expect(page.locator("#state")).to_contain_text("正在重连")
    expect(page.locator("#topics b")).to_have_text("草")  # what was seen last stays
    with serving(*flags, port=port) as (second, _):
        expect(page.locator("#state")).to_contain_text("还没有弹幕")
        observe(second, "room", "晚安", "晚安")
        expect(page.locator("#topics b")).to_have_text(["晚安"])
        context.__exit__(None, None, None)


def test_a_key_is_taken_from_the_fragment(browser: Browser) -> None:
    key = make_key()
    flags = ("--api-key-hashes", hash_key(key), "--collections", "none", "--access-log", "false")
    with serving(*flags) as (gateway, _):
        with opened(browser, f"{gateway.base_url}/live", refused=True) as page:
            expect(page.locator("#state")).to_contain_text("需要 API 密钥")
        with opened(browser, f"{gateway.base_url}/live#key={key}") as page:
            expect(page.locator("#topics li").first).to_be_visible()
