"""Measures the playground in a browser: bytes over the wire, and times until it answers.

A gateway of its own, on loopback, and a new browser profile each round, so that nothing is in a browser's cache. The
text is in the field before the page's script runs, so that the first result is as early as it can be.

    .venv/bin/python benchmarks/playground.py
    .venv/bin/python benchmarks/playground.py --rounds 1 --picture docs/playground.png
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway import CORES, serving
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Times of the page's own clock, which starts when it is asked for.
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
    parser.add_argument("--picture", type=Path, help="also take one, for the documents")
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
            if arguments.picture:
                take(browser, url, arguments.picture)
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
    page = browser.new_page(viewport={"width": 1280, "height": 940}, reduced_motion="reduce", color_scheme="light")
    page.goto(url)
    page.locator("#clusters li").first.wait_for()
    page.locator("#text").fill("阿夸好可爱")
    page.locator("#matches li").first.wait_for()
    page.locator("#text").blur()
    page.screenshot(path=path, animations="disabled")
    page.close()


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
