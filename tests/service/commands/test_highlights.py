"""`danmaku highlights` as people run it: every format, and a page that opens in a browser without a word."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from processes import ROOT


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "<b>stream.csv"
    rows = [f"第{second}句,{second}.0,2020-03-11 00:25:01" for second in range(0, 900, 10)]
    rows += [f"{'哈' * (2 + n % 5)},{400 + n * 0.4},2020-03-11 00:25:01" for n in range(30)]
    rows += [f"<img src=x onerror=alert(1)>,{700 + n},2020-03-11 00:25:01" for n in range(3)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(recording: Path, tiny_model: Path) -> Path:
    """The folder with every output."""
    outputs = [part for suffix in ("json", "csv", "edl", "png", "html") for part in ("--output", f"h.{suffix}")]
    ended = highlights(recording, *outputs, "--count", "3", tiny_model=tiny_model, folder=recording.parent)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0].startswith("h.json: ")
    return recording.parent


@pytest.fixture
def page(found: Path) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        page = browser.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if "h.html" not in request.url else None)
        page.goto(f"file://{found}/h.html")
        yield page
        browser.close()
        assert faults == []


def highlights(*arguments: str | Path, tiny_model: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "highlights", *map(str, arguments), "--encoder", f"onnx://{tiny_model}"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT}/client"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)


def test_a_table_is_printed_without_an_output(recording: Path, tiny_model: Path) -> None:
    ended = highlights(recording, "--count", "1", tiny_model=tiny_model, folder=recording.parent)
    _, row = ended.stdout.splitlines()

    assert row.startswith("  00:06:") and "哈" in row


def test_json_has_what_the_route_answers(found: Path) -> None:
    content = json.loads((found / "h.json").read_text())

    assert content["peaks"][0]["representatives"][0]["text"].startswith("哈")
    assert len(content["curve"]) * content["step_s"] == pytest.approx(890, abs=4)


def test_csv_has_the_highest_peak_first(found: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((found / "h.csv").read_text(encoding="utf-8"))))
    scores = [float(row["score"]) for row in rows]

    assert scores == sorted(scores, reverse=True)
    assert 380 < float(rows[0]["start"]) < 402 < float(rows[0]["end"])


def test_an_edl_is_in_order_of_time_and_of_equal_length_on_both_sides(found: Path) -> None:
    title, mode, _, *rows = (found / "h.edl").read_text(encoding="utf-8").splitlines()
    events = [row.split()[4:] for row in rows if not row.startswith("*")]
    seconds = [[3600 * int(t[:2]) + 60 * int(t[3:5]) + int(t[6:8]) for t in event] for event in events]

    assert (title, mode) == ("TITLE: <b>stream", "FCM: NON-DROP FRAME")
    assert seconds == sorted(seconds)
    assert all(end - start == recorded_end - recorded > 0 for start, end, recorded, recorded_end in seconds)
    assert [event[2] for event in seconds[1:]] == [event[3] for event in seconds[:-1]]
    assert seconds[0][2] == 0


def test_the_picture_is_a_png(found: Path) -> None:
    assert (found / "h.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_tells_what_is_under_the_pointer(page: Page) -> None:
    assert page.title() == "<b>stream"
    assert page.locator("li").count() == 2 and page.locator("img").count() == 0
    page.locator("li").first.hover()

    assert "哈" in page.locator("#tip").inner_text()
    assert page.locator("li.near").count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "h.xml"], "expected a name that ends in .json, .csv, .edl, .png, .html"),
        (["--output", "h.png", "--output", "h.png"], "is read or written already"),
        (["--count", "0"], "invalid --count: 0; expected 1 to 100"),
    ],
)
def test_what_is_invalid_is_named(recording: Path, tiny_model: Path, arguments: list[str], message: str) -> None:
    ended = highlights(recording, *arguments, tiny_model=tiny_model, folder=recording.parent)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert message in ended.stderr
