"""`danmaku merge` as users run it: files that players open, and a map from every danmaku to its group."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from biliass import convert_to_ass
from commands import danmaku

from service.recordings import open_recording

RECORDING = """<?xml version="1.0" encoding="UTF-8"?><i>
<d p="9.0,1,25,16777215,1584268892,0,a,5">晚安</d>
<d p="1.0,1,25,16777215,1584268890,0,a,1">来了！</d>
<d p="2.0,5,36,255,1584268893,0,b,2">来了</d>
<d p="2.5,1,25,16777215,1584268800,0,c,3">没来</d>
<d p="3.0,1,25,16777215,1584268895,0,d,4">来了</d>
<d p="40.0,1,25,16777215,1584268896,0,e,6">来了 &lt;&amp;</d>
<d p="4.0,8,25,16777215,1584268896,0,e,6">script</d>
</i>"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "stream.xml"
    path.write_text(RECORDING, encoding="utf-8")
    return path


@pytest.fixture
def encoder(tiny_model: Path) -> str:
    return f"onnx://{tiny_model}"


def merge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return danmaku("merge", *arguments)


def test_a_group_in_xml_has_the_style_of_its_danmaku(recording: Path, encoder: str, tmp_path: Path) -> None:
    output = tmp_path / "merged.xml"
    ended = merge(recording, "--output", output, "--encoder", encoder)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{output}: 6 danmaku in 4 groups, 33.3% merged away\n"
    assert "1 script" in ended.stderr
    rows = [(row.get("p"), row.text) for row in ElementTree.parse(output).getroot()]
    assert rows == [
        ("1.000,5,36,255,0,0,0,1", "来了 ×3"),
        ("2.500,1,25,16777215,0,0,0,2", "没来"),
        ("9.000,1,25,16777215,0,0,0,3", "晚安"),
        ("40.000,1,25,16777215,0,0,0,4", "来了 <&"),
    ]


def test_a_players_parser_opens_the_xml(recording: Path, encoder: str, tmp_path: Path) -> None:
    output = tmp_path / "merged.xml"
    merge(recording, "--output", output, "--encoder", encoder)
    drawn = [line for line in convert_to_ass(output.read_bytes(), 1920, 1080).splitlines() if "Dialogue:" in line]

    assert len(drawn) == 4
    assert any(line.endswith("来了 ×3") and "0:00:01.00" in line for line in drawn)
    assert [row.text for row in open_recording(output).rows()] == ["来了 ×3", "没来", "晚安", "来了 <&"]


def test_ass_shows_the_counts(recording: Path, encoder: str, tmp_path: Path) -> None:
    output = tmp_path / "merged.ass"

    assert merge(recording, "--output", output, "--encoder", encoder).returncode == 0
    assert "来了 ×3" in output.read_text(encoding="utf-8")


def test_every_danmaku_is_in_one_group_of_the_map(recording: Path, encoder: str, tmp_path: Path) -> None:
    output, group_map = tmp_path / "merged.json", tmp_path / "map.csv"
    merge(recording, "--output", output, "--map", group_map, "--encoder", encoder)
    groups = json.loads(output.read_text())["groups"]
    rows = list(csv.DictReader(io.StringIO(group_map.read_text(encoding="utf-8"))))

    assert [group["lines"] for group in groups] == [[1, 2, 4], [3], [0], [5]]
    assert sum(group["count"] for group in groups) == len(rows) == 6
    assert [(row["line"], row["text"], row["group"], row["group_text"], row["group_count"]) for row in rows[:3]] == [
        ("0", "晚安", "2", "晚安", "1"),
        ("1", "来了！", "0", "来了", "3"),
        ("2", "来了", "0", "来了", "3"),
    ]


def test_a_carriage_return_within_a_text_leaves_its_row_whole(encoder: str, tmp_path: Path) -> None:
    recording, output = tmp_path / "video.csv", tmp_path / "merged.csv"
    recording.write_bytes("再来一遍\r全线承包,1.0,2020-03-11 00:25:01\n".encode())
    merge(recording, "--output", output, "--encoder", encoder)

    rows = list(csv.reader(io.StringIO(output.read_text(encoding="utf-8"), newline="")))
    assert rows == [["seconds", "text", "count", "last"], ["1.000", "再来一遍 全线承包", "1", "1.000"]]


def test_a_link_to_the_output_stays_one(recording: Path, encoder: str, tmp_path: Path) -> None:
    link, target = tmp_path / "link.csv", tmp_path / "target.csv"
    link.symlink_to(target)
    merge(recording, "--output", link, "--encoder", encoder)

    assert link.is_symlink() and target.read_text(encoding="utf-8").startswith("seconds,text")


def test_several_recordings_are_named_by_a_pattern(recording: Path, encoder: str, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("草,1.0,2020-03-11 00:25:01\n草草草,2.0,2020-03-11 00:25:02\n", encoding="utf-8")
    ended = merge(recording, other, "--output", tmp_path / "{name}.merged.csv", "--encoder", encoder, "--window", "1")

    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "other.merged.csv").read_text() == "seconds,text,count,last\n1.000,草,2,2.000\n"
    assert "来了！,2,2.000" in (tmp_path / "stream.merged.csv").read_text()


def test_two_runs_write_the_same(recording: Path, encoder: str, tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        merge(recording, "--output", tmp_path / name, "--encoder", encoder)

    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{folder}/merged.srt"], "expected a name that ends in .xml, .ass, .json, .csv"),
        (["--output", "{folder}/none/merged.xml"], "expected an existing folder"),
        (["--output", "{folder}/stream.xml"], "is read or written already"),
        (["--output", "{folder}/m.csv", "--map", "{folder}/m.csv"], "invalid --map"),
        (["--output", "{folder}/m.csv", "--window", "0"], "invalid --window: 0; expected"),
        (["--output", "{folder}/m.csv", "--threshold", "2"], "invalid --threshold: 2; expected 0 to 1"),
    ],
)
def test_invalid_arguments_are_explained_and_nothing_is_written(
    recording: Path, encoder: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    ended = merge(recording, *[each.replace("{folder}", str(tmp_path)) for each in arguments], "--encoder", encoder)

    assert ended.returncode == 1 and ended.stdout == ""
    assert message in ended.stderr and ended.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["stream.xml"]


def test_a_recording_without_times_is_refused(encoder: str, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("草\n晚安\n", encoding="utf-8")
    ended = merge(texts, "--output", tmp_path / "m.xml", "--encoder", encoder)

    assert ended.returncode == 1
    assert "contains no danmaku with a time (2 without a time)" in ended.stderr
