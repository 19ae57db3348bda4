"""Files as users have them that were once misread: the service reads what a person would read in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reading import read, written
from recordings_writers import Danmaku, ass

from service.recordings import Options, RecordingError, open_recording
from service.recordings.folders import find_files, without_copies
from service.recordings.times import unix_time

GBK = '<?xml version="1.0" encoding="GBK"?><i><d p="1.0,1,25,1,1600000000,0,0,1">晚安</d></i>'.encode("gbk")
P = "1.0,1,25,16777215,1600000000,0,0,1"
EVENT = {"cmd": "DANMU_MSG", "info": [[0, 1, 25, 1, 1600000000123], "晚安", [90000001, "某人甲"]]}

# name of the file: what stands in it, danmaku with their seconds (0 where it does not tell), drops
CASES: dict[str, tuple[str | bytes, list[Danmaku], dict[str, int]]] = {
    "no_posting_time.xml": (
        '<i><d p="0,5,11,16777215,,0,NULL,">开始了</d><d p="12.5,1,25,16777215,,0,NULL,">好听</d></i>',
        [("开始了", 0), ("好听", 12.5)],
        {},
    ),
    "two_roots.xml": (
        f'<danuni><total>2</total></danuni><i><d p="{P}">第一条</d><d p="{P}">第二条</d></i>',
        [("第一条", 1), ("第二条", 1)],
        {},
    ),
    "unescaped.xml": (
        f'<i><d p="{P}">你&我</d><gift/><d p="{P}">1<2</d><d p="{P}">好听</d></i>',
        [("你&我", 1), ("1<2", 1), ("好听", 1)],
        {"gift": 1},
    ),
    "script_in_2_0.xml": (
        '<i><oid>1</oid><d p="53127923855,0,1000,7,25,1,1537275522,0,u">[0,0]</d>'
        '<d p="53127923856,0,178195,1,25,1,1537275522,0,u">真的</d></i>',
        [("真的", 178.195)],
        {"script (mode 7, 8 or 9)": 1},
    ),
    "beyond_any_video.xml": (
        f'<i><d p="1.5e9,1,25,1,0,0,u,1">x</d><d p="{P}">草</d></i>',
        [("草", 1)],
        {"malformed row": 1},
    ),
    "weights.xml": ('<i><d p="3.5,1,25,1,1600000000,0,u,1,10">九个字段</d></i>', [("九个字段", 3.5)], {}),
    "declared.xml": (GBK, [("晚安", 1)], {}),
    "not_declared.xml": ('<?xml version="1.0" encoding="GB2312"?><i>' + f'<d p="{P}">晚安</d></i>', [("晚安", 1)], {}),
    "utf16.txt": ("草\n晚安\n".encode("utf-16"), [("草", 0), ("晚安", 0)], {}),
    "gb18030.csv": (
        "草,1.5,2019-05-12 13:31:10\n晚安,2.5,2019-05-12 13:31:12\n草,a,b\n".encode("gb18030"),
        [("草", 1.5), ("晚安", 2.5)],
        {"malformed row": 1},
    ),
    "big5.csv": (
        "好聽,1.5,2019-05-12 13:31:10\n晚安,2.5,2019-05-12 13:31:12\n".encode("big5"),
        [("好聽", 1.5), ("晚安", 2.5)],
        {},
    ),
    "bom.txt": ("\ufeff草\n晚安\n", [("草", 0), ("晚安", 0)], {}),
    "bom.ndjson": ('\ufeff{"text":"草"}\n"晚安"\n', [("草", 0), ("晚安", 0)], {}),
    "some_lines_broken.txt": (
        "草原上的风\n".encode() * 3 + b"\xff\xfe\xfd\n" + "晚安\n".encode(),
        [("草原上的风", 0)] * 3 + [("晚安", 0)],
        {"not text": 1},
    ),
    "crawler.csv": (
        "videotime,mode,UID,unixtime,content\n384.018,1,0000000a,1589012247,害怕\n385.2,1,0000000b,1589012249,名场面\n",
        [("害怕", 384.018), ("名场面", 385.2)],
        {},
    ),
    "chinese.csv": (
        "\ufeff视频地址,弹幕时间,弹幕内容\nhttps://example.com/1,2021-03-04 05:06:07,泪目\n",
        [("泪目", 0)],
        {},
    ),
    "from_protobuf.jsonl": (
        '{"midHash":"a","content":"来了","mode":1}\n{"midHash":"b","content":"草","mode":1,"progress":1500}\n',
        [("来了", 0.0), ("草", 1.5)],
        {},
    ),
    "tabs.tsv": ("content\tprogress\n草\t1500\n", [("草", 1.5)], {}),
    "quoted.csv": (
        '"一句,两句",5,2019-05-12 13:31:10\n"他说""好听""",6,2019-05-12 13:31:11\n好,7,2019-05-12 13:31:12\n',
        [("一句,两句", 5), ('他说"好听"', 6), ("好", 7)],
        {},
    ),
    "not_quoted.csv": (
        '"一句,两句",5,2019-05-12 13:31:10\n他说"好听",6,2019-05-12 13:31:11\n',
        [('"一句,两句"', 5), ('他说"好听"', 6)],
        {},
    ),
    "quoted_over_lines.csv": ('seconds,text\n1,"一句\n两句"\n2,好\n', [("一句\n两句", 1), ("好", 2)], {}),
    "like_markup.csv": ("<b>,1.5,2019-05-12 13:31:10\n", [("<b>", 1.5)], {}),
    "scripts.csv": ('["0.1","0.7","被"],1.5,2019-02-12 09:55:58\n' * 3, [('["0.1","0.7","被"]', 1.5)] * 3, {}),
    "like_json.csv": ('["草,1.5,2019-05-12 13:31:10\n', [('["草', 1.5)], {}),
    "excel.csv": ("草,1.5,2019/5/12 13:31\n晚安,2.5,2019/5/12 13:32\n", [("草", 1.5), ("晚安", 2.5)], {}),
    "factory.ass": (
        ass([("滚动", 1.0)]) + ass([("反向", 2.0)], "L2R") + ass([("顶部", 3.0)], "TOP") + ass([("底部", 4.0)], "BTM"),
        [("滚动", 1), ("反向", 2), ("顶部", 3), ("底部", 4)],
        {},
    ),
    "danmaku2ass.ass": (ass([("好听", 5.0)], "Danmaku2ASS_4430"), [("好听", 5)], {}),
    "other.ass": (ass([("字幕", 1.0)], "Default") + ass([("草", 2.0)]), [("草", 2)], {"style Default": 1}),
    "events.jsonl": (
        json.dumps(EVENT) + '\n{"cmd":"INTERACT_WORD","data":{}}\n' + json.dumps({"type": "DANMU_MSG", "data": EVENT}),
        [("晚安", 1600000000.123)] * 2,
        {"other message": 1},
    ),
    "live_chat.json": (
        '{"replayChatItemAction":{"actions":[{"addChatItemAction":{"item":{"liveChatTextMessageRenderer":'
        '{"message":{"runs":[{"text":"草"},{"emoji":{"shortcuts":[":awsl:"]}}]}}}}}]},"videoOffsetTimeMsec":"1500"}\n'
        '{"replayChatItemAction":{"actions":[{"addLiveChatTickerItemAction":{}}]}}\n',
        [("草:awsl:", 1.5)],
        {"other message": 1},
    ),
    "render.json": (
        '[{"msg_type":"danmaku","name":"某人甲","content":"草","time":1.5},{"msg_type":"gift","content":"辣条","time":2}]',
        [("草", 1.5)],
        {"other message": 1},
    ),
    "cut_off.json": ('[{"text":"草","time":1.5},{"text":"晚', [("草", 1.5)], {"cut off at the end of the file": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_files_are_read_as_a_person_would(name: str, tmp_path: Path) -> None:
    content, danmaku, dropped = CASES[name]
    found, tally = read(written(tmp_path / name, content))
    texts = [each for document in found for each in zip(document.lines, document.seconds, strict=True)]
    assert texts == danmaku
    assert tally.dropped == dropped
    assert tally.rows == len(danmaku) + tally.dropped.total()
    assert not [writer for writer in ("某人甲", "90000001", "0000000a") if writer in repr(found) + repr(tally)]


def video(rows: list[tuple[float, int]]) -> str:
    return "<i>" + "".join(f'<d p="{at},1,25,1,{posted},0,a,1">{at}</d>' for at, posted in rows) + "</i>"


def is_live(path: Path, rows: list[tuple[float, int]]) -> bool:
    return open_recording(written(path, video(rows))).is_live


class TestLive:
    """A video's file is never taken for a recording."""

    def test_in_order_of_posting_over_a_year(self, tmp_path: Path) -> None:
        """In a short video, people post within seconds of one another."""
        rows = [(float(37 * n % 290), 1442496528 + 20 * n + 86400 * 30 * (n // 6)) for n in range(70)]
        assert not is_live(tmp_path / "a.xml", rows)
        (document,) = read(tmp_path / "a.xml")[0]
        assert document.seconds == sorted(at for at, _ in rows)

    def test_in_order_of_the_video(self, tmp_path: Path) -> None:
        assert not is_live(tmp_path / "a.xml", [(float(n), 1442496528 + 977 * n % 4000) for n in range(60)])

    @pytest.mark.parametrize("posted", [0, 1751533608])
    def test_with_one_time_of_posting(self, tmp_path: Path, posted: int) -> None:
        assert not is_live(tmp_path / "a.xml", [(2.4 * n, posted) for n in range(600)])

    def test_with_few_danmaku_in_both_orders(self, tmp_path: Path) -> None:
        """They were posted days apart, at seconds of the video."""
        assert not is_live(tmp_path / "a.xml", [(1.0, 1442496528), (90.0, 1442496528 + 3 * 86400)])

    @pytest.mark.parametrize("unit", [1, 1000])
    def test_a_recording_is_live(self, tmp_path: Path, unit: int) -> None:
        """It may have a break, which its own clock does not show, and a message that arrived late."""
        rows = [
            (10.0 * n, (1610516217 + 10 * n + (1500 if n > 50 else 0) - (20 if n == 7 else 0)) * unit)
            for n in range(100)
        ]
        assert is_live(tmp_path / "a.xml", rows)
        assert [len(document.lines) for document in read(tmp_path / "a.xml")[0]] == [51, 49]


class TestColumns:
    ROWS = "某人甲,12.5,草\n某人乙,13.5,晚安\n"

    def test_ambiguous_columns_are_refused_with_the_first_row(self, tmp_path: Path) -> None:
        with pytest.raises(RecordingError, match="cannot tell which column .* first row is '某人甲,12.5,草'"):
            open_recording(written(tmp_path / "a.csv", self.ROWS))

    def test_may_be_named_by_number(self, tmp_path: Path) -> None:
        options = Options(text_column="3", time_column="2")
        (document,), _ = read(written(tmp_path / "a.csv", self.ROWS), options)
        assert (document.lines, document.seconds) == (["草", "晚安"], [12.5, 13.5])

    def test_may_be_named_by_name(self, tmp_path: Path) -> None:
        options = Options(text_column="话", time_column="秒")
        (document,), _ = read(written(tmp_path / "a.csv", f"谁,秒,话\n{self.ROWS}"), options)
        assert (document.lines, document.seconds) == (["草", "晚安"], [12.5, 13.5])

    @pytest.mark.parametrize(
        ("column", "message"), [("4", "the first row has 3 columns"), ("话", "there is no column '话'")]
    )
    def test_missing_columns_are_an_error(self, tmp_path: Path, column: str, message: str) -> None:
        with pytest.raises(RecordingError, match=message):
            open_recording(written(tmp_path / "a.csv", self.ROWS), Options(text_column=column))

    def test_two_columns_that_may_be_the_danmaku_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RecordingError, match="several columns may be the danmaku"):
            open_recording(written(tmp_path / "a.csv", "text,content,time\n草,晚安,1\n"))


class TestEncoding:
    def test_may_be_named(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.txt", "こんばんは\nくさ\n".encode("shift_jis"))
        found, _ = read(path, Options(encoding="shift_jis"))
        assert found[0].lines == ["こんばんは", "くさ"]

    def test_a_wrong_name_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.txt", "草原\n晚安\n".encode("gb18030"))
        with pytest.raises(RecordingError, match="most of it is not text in utf-8"):
            open_recording(path, Options(encoding="utf-8"))

    def test_an_unknown_name_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RecordingError, match="invalid encoding 'klingon'"):
            open_recording(written(tmp_path / "a.txt", "草\n"), Options(encoding="klingon"))


class TestFolder:
    def test_two_videos_with_one_name_stay_separate(self, tmp_path: Path) -> None:
        for video_id, text in (("BV1xx411c7mD", "草"), ("BV1xx411c7mE", "晚安")):
            written(tmp_path / video_id / "danmaku.csv", f"{text},1.5,2019-05-12 13:31:10\n")
        names = {open_recording(path).name for path in find_files([tmp_path]).files}
        assert names == {"BV1xx411c7mD/danmaku", "BV1xx411c7mE/danmaku"}

    def test_texts_beside_recordings_are_skipped_and_named(self, tmp_path: Path) -> None:
        written(tmp_path / "1.csv", "草,1.5,2019-05-12 13:31:10\n")
        written(tmp_path / "day.txt", "TIME13:31ONLINE61\n草\n")
        for name in ("README.txt", "requirements.txt", "baidu_stopwords.txt", "notes.txt"):
            written(tmp_path / name, "某事\n")
        found = find_files([tmp_path])
        assert [path.name for path in found.files] == ["1.csv", "day.txt"]
        assert {path.name for path, _ in found.left_out} == {
            "README.txt", "requirements.txt", "baidu_stopwords.txt", "notes.txt"
        }  # fmt: skip

    def test_texts_are_read_if_named_or_alone(self, tmp_path: Path) -> None:
        written(tmp_path / "README.txt", "某事\n")
        text = written(tmp_path / "a.txt", "草\n")
        assert find_files([tmp_path]).files == [text]
        written(tmp_path / "1.csv", "草,1.5,2019-05-12 13:31:10\n")
        assert text in find_files([tmp_path, text]).files

    def test_one_recording_in_two_formats_is_read_once(self, tmp_path: Path) -> None:
        for name in ("a.xml", "a.jsonl"):
            written(tmp_path / name, "")
        found = without_copies(find_files([tmp_path]).files)
        assert ([path.name for path in found.files], [path.name for path, _ in found.left_out]) == (
            ["a.xml"],
            ["a.jsonl"],
        )

    def test_programs_are_not_segments(self, tmp_path: Path) -> None:
        written(tmp_path / "libx.so", b"\x7fELF")
        with pytest.raises(RecordingError, match="no recording under"):
            find_files([tmp_path])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1589012247", 1589012247.0),
        (1589012247123, 1589012247.123),
        ("1589012247123456", 1589012247.123456),
        ("2020-05-09 16:17:27", 1589012247.0),
        ("2020/5/9 16:17", 1589012220.0),
        ("2020-05-09T08:17:27Z", 1589012247.0),
        ("2019-02-30 00:00:00", None),
        ("soon", None),
        (12.5, None),
        (True, None),
    ],
)
def test_times_of_posting(value: object, expected: float | None) -> None:
    """Dates without a zone are in Bilibili's."""
    assert unix_time(value) == expected
