"""Measures the playground in a browser: bytes over the wire, and times until it answers.

It uses its own gateway on loopback, and a new browser profile for each round, so the browser's cache is empty. The text
is in the field before the page's script runs, so the first result comes as early as possible.

    .venv/bin/python benchmarks/playground.py
    .venv/bin/python benchmarks/playground.py --rounds 1 --pictures docs
"""

from __future__ import annotations

import argparse
import html
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
from gateway import CORES, serving
from material import ROOT
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
CHAT = ROOT / "examples/chat.ndjson"
MERGED_FROM_S = 140  # the part of the example chat that is drawn: 20 s from here
MERGED = """<style>
body {{ margin: 0; padding: 16px; display: grid; grid-template-columns: 1fr 1fr; gap: 16px; 
  font: 15px/1.5 "Noto Sans CJK SC", sans-serif; color: #222 }}
h2 {{ margin: 0 0 6px; font-size: 15px }}
ul {{ margin: 0; padding: 0; list-style: none }}
li {{ margin: 3px 0; padding: 1px 10px; border-left: 5px solid hsl(var(--hue) 60% 50%); white-space: nowrap;
  background: hsl(var(--hue) 60% 95%) }}
i {{ display: inline-block; width: 52px; color: #777; font-style: normal }}
</style><section><h2>合并前：{}</h2><ul>{}</ul></section><section><h2>合并后：{}</h2><ul>{}</ul></section>"""
# Times of the page's own clock, which starts with the request for the page.
WATCH = """
addEventListener("DOMContentLoaded", () => {
  document.getElementById("text").value = "阿夸";
  for (const [name, id] of [["result", "matches"], ["map", "clusters"]]) {
    const place = document.getElementById(id);
    new MutationObserver((_, observer) => {
      if (!place.children.length) return;
      (window.times ??= {})[name] = performance.now();
      observer.disconnect();
    }).observe(place, { childList: true });
  }
});
"""
TYPE = """
(text) => new Promise((done) => {
  const field = document.getElementById("text");
  const started = performance.now();
  new MutationObserver((_, observer) => {
    done(performance.now() - started);
    observer.disconnect();
  }).observe(document.getElementById("matches"), { childList: true });
  field.value = text;
  field.dispatchEvent(new InputEvent("input"));
})
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="[7]")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="also take the documents' pictures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        flags = ["--collections", f"sqlite:///{directory}", "--access-log", "false"]
        with (
            serving(["-m", "service", "serve", "--port", "{port}", *flags], cores=CORES) as port,
            sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS) as browser,
        ):
            url = f"http://127.0.0.1:{port}/"
            rounds = [measure(browser, url, number) for number in range(arguments.rounds)]
            if arguments.pictures:
                take(browser, url, arguments.pictures / "playground.png")
                take_live(browser, url, arguments.pictures / "live.png")
                take_merged(browser, url, arguments.pictures / "merged.png")
    sizes = rounds[0][0]
    for name, size in sorted(sizes.items(), key=lambda entry: -entry[1]):
        print(f"{size:9,} bytes  {name}")
    print(f"{sum(sizes.values()):9,} bytes  in all, with heads\n")
    for name in rounds[0][1]:
        print(f"{name:48} {format_range([times[name] for _, times in rounds])}")


def measure(browser: Browser, url: str, number: int) -> tuple[dict[str, int], dict[str, float]]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    sizes = listen(page)
    page.add_init_script(WATCH)
    page.goto(url)
    page.wait_for_function("() => window.times?.result && window.times?.map")
    times = page.evaluate("window.times")
    told = {
        "from the address to the first result": times["result"],
        "from the address to the map": times["map"],
        "from a key to what was never asked": page.evaluate(TYPE, f"第{number}条弹幕"),
        "from a key to what is cached": page.evaluate(TYPE, "草"),
    }
    context.close()
    return sizes, told


def take(browser: Browser, url: str, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 980}, reduced_motion="reduce", color_scheme="light")
    page.goto(url)
    page.locator("#clusters li").first.wait_for()
    page.locator("#text").fill("阿夸好可爱")
    page.locator("#tokens").filter(has_text="爱").wait_for()  # matches of the previous text are already there
    page.locator("#matches li").first.wait_for()
    page.locator("#text").blur()
    page.screenshot(path=path, animations="disabled")
    page.close()


def take_live(browser: Browser, url: str, path: Path) -> None:
    """Takes a picture of the overlay when the example chat is about a game, in its second minute."""
    page = browser.new_page(viewport={"width": 900, "height": 520}, reduced_motion="reduce", color_scheme="light")
    page.goto(f"{url}live")
    page.locator("#topics li").filter(has_text="boss").first.wait_for()
    page.wait_for_timeout(3000)
    page.screenshot(path=path, animations="disabled")
    page.close()


def take_merged(browser: Browser, url: str, path: Path) -> None:
    """Draws a part of the example chat beside the result of `POST /merge`."""
    lines = [json.loads(line) for line in CHAT.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if MERGED_FROM_S <= line["time"] < MERGED_FROM_S + 20]
    groups = httpx.post(f"{url}merge", json={"lines": lines}).raise_for_status().json()["groups"]
    of_line = {line: number for number, group in enumerate(groups) for line in group["ids"]}
    rows = [(line["time"], line["text"], 1, of_line[str(number)]) for number, line in enumerate(lines)]
    merged = [(group["first"], group["text"], group["count"], number) for number, group in enumerate(groups)]
    page = browser.new_page(viewport={"width": 400, "height": 200}, color_scheme="light")
    page.set_content(MERGED.format(f"{len(rows)} 条", draw_rows(rows), f"{len(merged)} 条", draw_rows(merged)))
    page.screenshot(path=path, full_page=True, animations="disabled")
    page.close()


def draw_rows(rows: Sequence[tuple[float, str, int, int]]) -> str:
    """Draws rows of time, text, count and group; each group has its own colour."""
    return "".join(
        f'<li style="--hue:{group * 137 % 360}"><i>{time:.0f} s</i>{html.escape(text)}'
        f"{f' <b>×{count}</b>' if count > 1 else ''}</li>"
        for time, text, count, group in rows
    )


def listen(page: Page) -> dict[str, int]:
    """Counts bytes received per file, headers included, without the responses to typed text."""
    session = page.context.new_cdp_session(page)
    paths: dict[str, str] = {}
    sizes: dict[str, int] = {}

    def ask(event: dict[str, object]) -> None:
        paths[str(event["requestId"])] = str(event["request"]["url"]).partition("//")[2].partition("/")[2]  # type: ignore[index]  # events of the protocol are untyped

    def end(event: dict[str, object]) -> None:
        path = "/" + paths.get(str(event["requestId"]), "?")
        if path == "/" or path.startswith("/static/"):
            sizes[path] = sizes.get(path, 0) + int(event["encodedDataLength"])  # type: ignore[call-overload]  # as above

    session.on("Network.requestWillBeSent", ask)
    session.on("Network.loadingFinished", end)
    session.send("Network.enable")
    return sizes


def format_range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):6.0f} ms ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
