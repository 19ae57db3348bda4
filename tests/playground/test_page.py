"""The playground in a browser, Debian's Chromium, over a running gateway with the bundled model."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import opened
from pages import train_head
from playwright.sync_api import Browser, Page, expect
from processes import serving

from service.api.http.keys import hash_key, make_key

UNKNOWN = "\U00030edd"  # biáng: of a later Unicode than the vocabulary


@pytest.fixture(scope="module")
def strict() -> Iterator[tuple[httpx.Client, str]]:
    """A gateway that requires a key, accepts little at a time and caches nothing; yields it and its key."""
    key = make_key()
    limits = ("--max-queue-texts", "48", "--max-request-texts", "48", "--threads", "1", "--cache-bytes", "0")
    flags = ("--api-key-hashes", hash_key(key), "--collections", "none", "--access-log", "false")
    with serving(*limits, *flags) as (client, _):
        yield client, key


def give_key(page: Page, key: str) -> None:
    page.locator("#key-field").fill(key)
    page.locator("#key-field").press("Enter")
    expect(page.locator("#heat tbody tr").first).to_be_visible()


def ask(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    expect(page.locator("#status")).to_contain_text(text[:12])


def texts(page: Page, selector: str) -> list[str]:
    return page.locator(selector).all_inner_texts()


def picture(page: Page) -> str:
    """Returns the pixels of the map."""
    return str(page.evaluate("document.querySelector('#map canvas').toDataURL()"))


def test_the_page_shows_what_the_routes_answer(browser: Browser, gateway: httpx.Client) -> None:
    """It shows matches and scores, tokens, the place on the map, and whether the vector was cached."""
    text = "阿夸今天也好可爱"
    with opened(browser, gateway.base_url) as page:
        expect(page.locator("#clusters li").first).to_be_visible()
        page.locator("#text").press_sequentially(text)
        expect(page.locator("#status")).to_contain_text(f"「{text}」有 12 条结果，最接近的是")
        expect(page.locator("#map-note")).to_contain_text(f"「{text}」与")
        expect(page.locator("#meter")).to_contain_text("未命中缓存，实时计算")
        shown = list(zip(texts(page, "#matches button"), texts(page, "#matches data"), strict=True))
        tokens = texts(page, "#tokens li")
        ask(page, "草")
        expect(page.locator("#tokens li")).to_have_count(3)
        ask(page, text)
        expect(page.locator("#meter b")).to_have_text("命中缓存")

    query = {"query": text, "collection": "default", "top_k": len(shown)}
    matches = gateway.post("/similar", json=query).json()["results"][0]["matches"]
    assert shown == [(match["text"], f"{match['score']:.3f}") for match in matches]
    assert len(shown) > 9
    assert tokens == gateway.post("/tokenize", json={"texts": [text]}).json()["results"][0]["tokens"]


def test_an_aborted_response_is_not_shown(browser: Browser, gateway: httpx.Client) -> None:
    """Typing on aborts the previous request, even between its response head and body."""
    with opened(browser, gateway.base_url) as page:
        expect(page.locator("#clusters li").first).to_be_visible()
        outcome = page.evaluate(
            """async () => {
                const api = await import("./static/api.js");
                const given_up = new AbortController();
                const whole = window.fetch;
                window.fetch = async (...request) => {
                    const response = await whole(...request);
                    given_up.abort();
                    return response;
                };
                const many = Array.from({ length: 500 }, (_, number) => `草${number}`);
                return api.embed(many, given_up.signal).then(() => "answered", ({ name }) => name);
            }"""
        )
        assert outcome == "AbortError"


def test_unknown_characters_are_marked(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, gateway.base_url) as page:
        ask(page, f"吃{UNKNOWN}{UNKNOWN}面")
        unknown = page.locator("#tokens .unknown")
        expect(unknown.first).to_contain_text("[UNK]")
        assert "".join(texts(page, "#tokens .unknown span")).replace(" ", "") == UNKNOWN * 2
        ask(page, "哈" * 300)
        expect(page.locator("#tokens .cut")).to_contain_text("未读入")
        page.locator("#text").fill(UNKNOWN)
        expect(page.locator("#no-matches")).to_contain_text("都不在模型的词表里")
        expect(page.locator("#matches li")).to_have_count(0)
        expect(page.locator("#meter")).to_be_empty()


def test_mouse_keys_and_buttons_move_the_map(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, gateway.base_url) as page:
        expect(page.locator("#clusters li").first).to_be_visible()
        ask(page, "阿夸")
        level, chart = page.locator("#zoom-level"), page.locator("#map")
        expect(page.locator("#map-note")).to_contain_text("一类最接近")
        expect(level).to_have_text("100%")
        seen = [picture(page)]

        def moved() -> None:
            page.wait_for_function(
                "before => document.querySelector('#map canvas').toDataURL() !== before", arg=seen[-1]
            )
            seen.append(picture(page))

        chart.hover()
        page.mouse.wheel(0, 150)  # passes by
        page.wait_for_function("() => scrollY > 0")
        expect(level).to_have_text("100%")
        box = chart.bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 90, y + 40, steps=4)
        page.mouse.up()
        moved()
        page.mouse.wheel(0, -300)
        expect(level).not_to_have_text("100%")
        moved()
        chart.focus()
        page.keyboard.press("ArrowLeft")
        moved()
        zoomed = level.inner_text()
        page.keyboard.press("+")
        expect(level).not_to_have_text(zoomed)
        page.locator("#zoom-out").click()
        expect(level).to_have_text(zoomed)
        page.keyboard.press("Tab")
        page.locator("#zoom-reset").click()
        expect(level).to_have_text("100%")
        page.locator("#clusters button").first.click()
        expect(page.locator("#clusters button").first).to_have_attribute("aria-pressed", "true")
        moved()


def test_an_empty_page_shows_an_example_that_typing_replaces(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, gateway.base_url) as page:
        expect(page.locator("#status")).to_contain_text("「阿夸」有")
        expect(page.locator("#matches li")).to_have_count(12)
        expect(page.locator("#key-button")).to_be_hidden()
        page.locator("#text").click()
        page.keyboard.type("晚安")
        expect(page.locator("#text")).to_have_value("晚安")
        expect(page.locator("#status")).to_contain_text("「晚安」有")


def test_a_narrow_screen_says_that_the_heat_map_scrolls(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, gateway.base_url, width=390) as page:
        expect(page.locator("#heat tbody tr").first).to_be_visible()
        expect(page.locator("#heat-hint")).to_be_visible()
        page.set_viewport_size({"width": 1280, "height": 900})
        expect(page.locator("#heat-hint")).to_be_hidden()


def test_flying_danmaku_pass_above_the_heading(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, gateway.base_url) as page:
        lanes, heading = page.locator("#lanes").bounding_box(), page.locator("#title").bounding_box()
        assert lanes and heading and lanes["y"] + lanes["height"] <= heading["y"]


def test_the_comparison_shows_cosines_and_relations(browser: Browser, gateway: httpx.Client) -> None:
    """They are those of /similar; what is unrelated has no colour."""
    lines = ["草", "哈哈哈", "哈哈哈哈哈", UNKNOWN]
    with opened(browser, gateway.base_url) as page:
        page.locator("#lines").fill("\n".join(lines))
        expect(page.locator("#heat tbody tr")).to_have_count(len(lines))
        expect(page.locator("#heat-note")).to_contain_text("没有向量：这条弹幕的字都不在模型的词表里")
        rows = [page.locator(f"#heat tbody tr:nth-child({row}) td") for row in range(1, 5)]
        cells = [row.all_inner_texts() for row in rows]
        relations = [[cell.get_attribute("class") for cell in row.all()] for row in rows[:3]]
        colours = [
            [cell.evaluate("cell => getComputedStyle(cell).backgroundColor") for cell in row.all()] for row in rows
        ]
        page.locator("#lines").fill("\n".join(f"第{number}条" for number in range(30)))
        expect(page.locator("#heat-note")).to_contain_text("末尾 6 条未参与比较")
        expect(page.locator("#heat tbody tr")).to_have_count(24)

    answer = gateway.post("/similar", json={"query": lines[:3], "candidates": lines[:3]}).json()
    for row, names, result in zip(cells, relations, answer["results"], strict=False):
        found = {int(match["id"]): match for match in result["matches"]}
        scores = [found[column]["score"] for column in range(3)]
        assert [float(cell) for cell in row[:3]] == pytest.approx(scores, abs=0.006)
        assert names == [*(found[column]["relation"] for column in range(3)), ""]
        assert row[3] == "–"
    assert cells[3] == ["–"] * 4
    assert relations[0][:2] == ["same", "unrelated"] and relations[1][2] == "same"
    assert colours[0][1] == colours[3][0] != colours[0][0] == colours[1][2]


def test_language_and_theme_persist(browser: Browser, gateway: httpx.Client) -> None:
    with opened(browser, gateway.base_url, color_scheme="light") as page:
        expect(page.locator("#title")).to_contain_text("弹幕")
        ask(page, "草")
        expect(page.locator("#meter")).to_contain_text("毫秒")
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator("#language").click()
        expect(page.locator("#title")).to_contain_text("danmaku")
        expect(page.locator("#meter")).to_contain_text("ms")
        page.locator("#theme").click()
        expect(page.locator("#theme")).to_have_attribute("aria-pressed", "true")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.reload()
        expect(page.locator("#title")).to_contain_text("danmaku")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark != light
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.title() == "Danmaku playground"


def test_copied_requests_run_unchanged(browser: Browser, gateway: httpx.Client) -> None:
    """The Python runs unchanged, and a shell parses the command into the same request."""
    text = 'it\'s "草" $HOME \\'
    with opened(browser, gateway.base_url) as page:
        expect(page.locator("#collection")).to_have_value("default")
        ask(page, text)
        code = page.locator(".nearest .code")
        page.locator("#copy-similar button", has_text="curl").click()
        expect(code).to_be_visible()
        curl = code.inner_text()
        page.locator("#copy-similar button", has_text="Python").click()
        expect(code).to_contain_text("urllib")
        program = code.inner_text()
        best = texts(page, "#matches button")[0]

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    *_, url, _, body = shlex.split(curl.replace("\\\n", ""))
    assert done.stdout.splitlines()[0].split(" ", 1)[1] == best, done.stderr
    assert json.loads(body) == {"query": text, "collection": "default", "top_k": len(done.stdout.splitlines())}
    assert gateway.post(url, content=body).json()["results"][0]["matches"][0]["text"] == best


def test_the_page_asks_for_a_key_and_does_not_leak_it(browser: Browser, strict: tuple[httpx.Client, str]) -> None:
    gateway, key = strict
    with opened(browser, gateway.base_url, refused=True) as page:
        expect(page.locator("#alert")).to_contain_text("401 unauthorized")
        expect(page.locator("#alert")).to_contain_text("此网关需要 API 密钥")
        expect(page.locator("#key-button")).to_be_visible()
        give_key(page, key)
        expect(page.locator("#alert")).to_be_hidden()
        page.locator("#copy-compare button", has_text="curl").click()
        code = page.locator("section:has(#heat) .code")
        expect(code).to_contain_text("$DANMAKU_API_KEY")
        assert key not in code.inner_text()
        assert page.evaluate("JSON.stringify(localStorage)") == "{}"


def test_without_collections_it_still_shows_tokens_and_compares(
    browser: Browser, strict: tuple[httpx.Client, str]
) -> None:
    gateway, key = strict
    with opened(browser, gateway.base_url, refused=True) as page:
        give_key(page, key)
        expect(page.locator("#map-note")).to_contain_text("暂无地图")
        ask(page, "草")
        expect(page.locator("#no-matches")).to_contain_text("未启用集合")
        expect(page.locator("#tokens li")).to_have_count(3)


def test_a_refusal_is_shown_and_can_be_retried(browser: Browser, strict: tuple[httpx.Client, str]) -> None:
    """The load is real: other clients fill the queue."""
    gateway, key = strict
    done = threading.Event()

    def crowd() -> None:
        with httpx.Client(base_url=gateway.base_url, headers={"X-API-Key": key}, timeout=60) as http:
            for turn in count():
                if done.is_set():
                    return
                http.post("/embed", json=[f"{threading.get_ident()} {turn} {number}" for number in range(40)])

    threads = [threading.Thread(target=crowd) for _ in range(12)]
    with opened(browser, gateway.base_url, refused=True) as page:
        give_key(page, key)
        for thread in threads:
            thread.start()
        try:
            for attempt in range(200):
                with page.expect_response("**/similar") as answer:
                    page.locator("#lines").fill("\n".join(f"{attempt} 第 {number} 条" for number in range(24)))
                if answer.value.status == 429:
                    break
            expect(page.locator("#alert")).to_contain_text("429 overloaded")
            expect(page.locator("#alert")).to_contain_text("网关繁忙")
        finally:
            done.set()
            for thread in threads:
                thread.join()
        page.locator("#alert button").click()
        expect(page.locator("#alert")).to_be_hidden()
        expect(page.locator("#heat tbody th").first).to_contain_text(f"{attempt} 第 0 条")


@pytest.mark.parametrize(("theme", "width", "language"), [("light", 1280, "zh"), ("dark", 360, "en")])
def test_the_page_is_accessible(browser: Browser, gateway: httpx.Client, theme: str, width: int, language: str) -> None:
    """axe finds nothing serious and nothing is wider than the screen, with every part of the page shown."""
    with opened(browser, gateway.base_url, width=width, color_scheme=theme) as page:
        if language == "en":
            page.locator("#language").click()
        expect(page.locator("#clusters li").first).to_be_visible()
        ask(page, f"吃{UNKNOWN}面吗，{'哈' * 200}")
        expect(page.locator("#matches li").first).to_be_visible()
        page.locator("#copy-similar button").first.click()
        page.locator("#copy-compare button").first.click()
        expect(page.locator("#heat tbody tr").first).to_be_visible()
        found = Axe().run(page).response["violations"]
        wide = page.evaluate("document.documentElement.scrollWidth")
        page.evaluate("document.getElementById('key').showPopover()")  # its button appears where a key is needed
        found += Axe().run(page, context="#key").response["violations"]

    serious = [(each["id"], [node["html"] for node in each["nodes"]]) for each in found if each["impact"] != "minor"]
    assert serious == []
    assert wide == width


def test_the_page_works_without_a_mouse(browser: Browser, gateway: httpx.Client) -> None:
    """The first Tab stop skips the header; from the field, Tab leads through the examples to the results."""
    with opened(browser, gateway.base_url) as page:
        expect(page.locator("#clusters li").first).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.type("晚安")
        page.keyboard.press("Enter")
        expect(page.locator("#matches li").first).to_be_visible()
        expect(page.locator("#status")).to_contain_text("「晚安」有")
        for _ in range(40):
            if page.evaluate("document.activeElement.closest('#matches') !== null"):
                break
            page.keyboard.press("Tab")
        second = texts(page, "#matches button")[1]
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#text")).to_have_value(second)


def test_enter_sends_one_request(browser: Browser, gateway: httpx.Client) -> None:
    """The pause in typing must not repeat it: that would replace the list while the keyboard is in it."""
    with opened(browser, gateway.base_url) as page:
        expect(page.locator("#clusters li").first).to_be_visible()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.locator("#text").press_sequentially("晚安")
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("「晚安」有")
        page.wait_for_timeout(500)  # longer than the pause

        assert len([url for url in asked if url.endswith("/tokenize")]) == 1


def test_what_is_typed_has_the_label_of_every_head(browser: Browser, tmp_path: Path) -> None:
    flags = ("--heads", str(train_head(tmp_path)), "--collections", "none", "--access-log", "false")
    with serving(*flags) as (http, _), opened(browser, http.base_url, refused=True) as page:
        page.locator("#text").fill("这是什么歌")
        expect(page.locator("#labels dt")).to_have_text(["question"])
        expect(page.locator("#labels dd span")).to_have_text(["question"])
        page.locator("#text").fill("晚安")
        expect(page.locator("#labels dd span")).to_have_text(["other"])
        page.locator("#text").fill(" ")
        expect(page.locator("#seen")).to_be_hidden()
