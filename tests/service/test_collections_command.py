"""`danmaku collections`, as processes that talk to a running gateway."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from processes import ROOT, serving

from service.commands.collections.transfer import BLOCK_ROWS


def danmaku(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service", "collections", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_collections_are_managed_from_a_shell(tiny_model: Path, tmp_path: Path) -> None:
    at = ("--collections", f"sqlite://{tmp_path}/c")
    with serving(*at, model=f"onnx://{tiny_model}") as (http, _):
        url = ("--url", str(http.base_url))
        assert danmaku("create", "room", *url).returncode == 0
        http.post("/collections/room/danmaku", json=["草", "晚安"])
        assert "room\t2 danmaku" in danmaku("list", *url).stdout
        assert danmaku("search", "room", "草", "--top-k", "1", *url).stdout == "1.000\t草\n"
    with serving(*at, "--pooling-strategy", "CLS_TOKEN", model=f"onnx://{tiny_model}") as (http, _):
        url = ("--url", str(http.base_url))
        refused = danmaku("search", "room", "草", *url)
        assert (refused.returncode, "danmaku collections rebuild room" in refused.stderr) == (1, True)
        assert "room: 2 danmaku, of which 0 cannot" in danmaku("rebuild", "room", *url).stdout
        assert danmaku("search", "room", "草", "--top-k", "1", *url).stdout == "1.000\t草\n"
        assert danmaku("drop", "room", *url).returncode == 0
        assert (
            danmaku("drop", "room", *url).stderr
            == "danmaku collections: 404 not_found: the collection room does not exist\n"
        )


def test_files_are_loaded_and_a_collection_is_exported(tiny_model: Path, tmp_path: Path) -> None:
    """An export loads into an equal collection; repeating a load adds nothing."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "1.csv").write_text("草,1.5,2019-05-01 20:00:00\nno danmaku\n", encoding="utf-8")
    (tmp_path / "files" / "2.txt").write_text("晚安\n草\n \n" + "哈\n" * 1500, encoding="utf-8")
    more = tmp_path / "more.ndjson"
    more.write_text('{"text": "好", "id": "x", "metadata": {"room": 3}, "count": 2}\n{"text": "了", "x": 1}\n', "utf-8")
    first, second = tmp_path / "first.ndjson", tmp_path / "second.ndjson"
    with serving("--collections", f"sqlite://{tmp_path}/c", model=f"onnx://{tiny_model}") as (http, _):
        url = ("--url", str(http.base_url))
        paths = [str(path) for path in (tmp_path / "files", tmp_path / "files" / "2.txt", more)]
        loaded = danmaku("load", "room", *paths, *url)
        rows, *parts, not_danmaku = map(int, re.findall(r"\d+", loaded.stdout.replace(",", "")))
        assert (rows, sum(parts), not_danmaku, parts[0], parts[-1]) == (1506, 1506, 0, 5, 1), loaded.stdout
        assert "1.csv, row 2: malformed row" in loaded.stderr
        assert "2.txt: plain text beside recordings" in loaded.stderr
        assert loaded.returncode == 1  # a row was refused, and --lenient was not said
        skipped = danmaku("load", "room", *paths, "--skip", "1504", *url)
        told = "room: 2 rows; 0 added, 2 already present, 0 repeated, 0 refused, 0 not danmaku\n"
        assert (skipped.stdout, skipped.returncode) == (told, 0)
        assert danmaku("export", "room", "--output", str(first), *url).stdout == f"{first}: 5 danmaku\n"
        assert "already exists" in danmaku("export", "room", "--output", str(first), *url).stderr
        danmaku("load", "copy", str(first), *url)
        danmaku("export", "copy", "--output", str(second), *url)
        assert (
            "the collection none does not exist" in danmaku("export", "none", "--output", f"{tmp_path}/n", *url).stderr
        )
        assert "nowhere does not exist" in danmaku("load", "room", "nowhere", *url).stderr

    items = {item["text"]: item for item in map(json.loads, first.read_text(encoding="utf-8").splitlines())}
    assert {text: item["count"] for text, item in items.items()} == {"草": 2, "晚安": 1, "哈": 1500, "好": 4, "了": 2}
    assert (items["好"]["id"], items["好"]["metadata"], items["草"]["metadata"]) == ("x", {"room": 3}, {})
    assert sorted(first.read_bytes().splitlines()) == sorted(second.read_bytes().splitlines())
    assert not list(tmp_path.glob("*.part"))


def test_an_interrupted_load_says_where_to_resume(tiny_model: Path, tmp_path: Path) -> None:
    danmaku_file = tmp_path / "in.txt"
    danmaku_file.write_text("".join(f"草{number}\n" for number in range(200_000)), encoding="utf-8")
    flags = ("--collections", f"sqlite://{tmp_path}/c")
    with serving(*flags, model=f"onnx://{tiny_model}") as (http, _):
        command = [sys.executable, "-m", "service", "collections", "load", "room", str(danmaku_file)]
        loading = subprocess.Popen(
            [*command, "--url", str(http.base_url)], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for _ in range(6000):
            answer = http.get("/collections/room")
            # a second block is sent when the first one's answer is there
            if answer.status_code == 200 and answer.json()["count"] > BLOCK_ROWS:
                break
            time.sleep(0.01)
        loading.send_signal(signal.SIGINT)
        _, told = loading.communicate(timeout=60)
        count = http.get("/collections/room").json()["count"]

    assert loading.returncode == 130
    rows = int(told.split()[2])
    assert told.decode() == f"danmaku collections: {rows} rows are loaded; use --skip {rows} to resume after them\n"
    assert 0 < rows <= count <= rows + BLOCK_ROWS


def test_a_number_is_an_id_in_json_as_in_a_table(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"id": 12345, "text": "草"}\n', encoding="utf-8")
    (tmp_path / "1.csv").write_text("id,text\n12345,草\n", encoding="utf-8")
    with serving("--collections", f"sqlite://{tmp_path}/c", model=f"onnx://{tiny_model}") as (http, _):
        for name in ("1.jsonl", "1.csv"):
            loaded = danmaku("load", "room", str(tmp_path / name), "--url", str(http.base_url))
            assert loaded.returncode == 0, loaded.stderr

        assert http.get("/collections/room/danmaku/12345").json()["count"] == 2


def test_what_cannot_be_done_is_explained(tiny_model: Path, tmp_path: Path) -> None:
    skipped = danmaku("load", "room", "nowhere", "--skip", "-1")
    assert skipped.returncode == 2 and "invalid number: '-1'; expected 0 or more" in skipped.stderr
    with serving("--collections", f"sqlite://{tmp_path}/c", model=f"onnx://{tiny_model}") as (http, _):
        http.put("/collections/room")
        searched = danmaku("search", "room", " ", "--url", str(http.base_url))
    assert searched.returncode == 1 and "' ' cannot be searched for: the text is blank" in searched.stderr


def test_the_url_may_stand_before_the_action(tiny_model: Path, tmp_path: Path) -> None:
    with serving("--collections", f"sqlite://{tmp_path}/c", model=f"onnx://{tiny_model}") as (http, _):
        http.put("/collections/room")
        assert "room\t0 danmaku" in danmaku("--url", str(http.base_url), "list").stdout


def test_a_closed_pipe_ends_the_output_silently(tiny_model: Path, tmp_path: Path) -> None:
    """This is what `danmaku collections search … | head -1` does."""
    with serving("--collections", f"sqlite://{tmp_path}/c", model=f"onnx://{tiny_model}") as (http, _):
        http.put("/collections/room")
        http.post("/collections/room/danmaku", json=["草", "晚安"])
        command = [sys.executable, "-u", "-m", "service", "collections", "search", "room", "草"]
        searching = subprocess.Popen(
            [*command, "--url", str(http.base_url)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert searching.stdout and searching.stderr
        searching.stdout.close()
        assert (searching.wait(60), searching.stderr.read()) == (0, b"")
        searching.stderr.close()


def test_an_unknown_flag_prints_the_usage_of_its_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "worker", "-model_dir", "x", "-wat"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: danmaku worker ") and "unrecognized arguments: -wat" in done.stderr
