"""Pitfalls of each format: text that looks like structure, missing structure, times in several units."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from reading import JSON, lines, read, written

from service.recordings import Options, name_of


def d(text: str, p: str = "1.0,1,25,16777215,1584268892,0,a16fe0dd,2995") -> str:
    return f'<d p="{p}">{text}</d>'


class TestCsv:
    @pytest.mark.parametrize(
        ("row", "text"),
        [
            ("草,1.5,2019-01-01 00:00:00", "草"),
            ("好听,真的,好听,1.5,2019-01-01 00:00:00", "好听,真的,好听"),
            (",,,1.5,2019-01-01 00:00:00", ",,"),
            ('"引号",7,2019-01-01 00:00:00', '"引号"'),
            ("Ｎｉｃｅ！😀,0.0,2019-01-01 00:00:00\r", "Ｎｉｃｅ！😀"),
            (",1,2019-01-01 00:00:00", ""),
        ],
    )
    def test_a_text_may_contain_separators(self, tmp_path: Path, row: str, text: str) -> None:
        """The text may hold commas and quotes; it ends before the last two columns."""
        assert lines(tmp_path / "1.csv", row + "\n") == [text]

    def test_rows_are_in_the_order_of_the_video(self, tmp_path: Path) -> None:
        """Seconds are compared as numbers; danmaku of the same second keep the order of the file."""
        rows = "".join(f"{row},2019-01-01 00:00:00\n" for row in ("c,10.0", "a,2", "d,10", "b,9.5"))
        assert lines(tmp_path / "1.csv", rows) == ["a", "b", "c", "d"]

    def test_other_rows_are_counted(self, tmp_path: Path) -> None:
        """Fragments of scripts and rows without a valid time are counted; empty rows at the end of a file are not."""
        rows = ["草,1,2019-01-01 00:00:00", "<script>", "草,x,2019-01-01 00:00:00", "草,1", "", " "]
        found, tally = read(written(tmp_path / "1.csv", "\n".join(rows)))
        assert ([doc.lines for doc in found], tally.rows, tally.dropped) == ([["草"]], 4, {"malformed row": 3})

    def test_seconds_that_no_video_has_are_malformed(self, tmp_path: Path) -> None:
        """One of them would move every other danmaku of the recording."""
        times = [*[("草", "1")] * 5, ("a", "9" * 400), ("b", "3000000")]
        rows = [f"{text},{time},2019-01-01 00:00:00" for text, time in times]
        quoted = [f'"{row.replace(",", chr(34) + "," + chr(34))}"' for row in rows]
        for content in (rows, quoted):
            found, tally = read(written(tmp_path / "1.csv", "\n".join(content)))
            assert ([doc.lines for doc in found], tally.dropped) == ([["草"] * 5], {"malformed row": 2})

    @pytest.mark.parametrize(
        ("name", "content", "texts"),
        [
            ("1.csv", "text,seconds\n草,1\na\rb,2\n", ["草", "a b"]),
            ("1.csv", "text,seconds\n草,1\n" + "草" * 150_000 + ",2\n晚安,3\n", ["草", "晚安"]),
            ("1.txt", "草\n进度 10%\r进度 20%\n晚安\n", ["草", "进度 10% 进度 20%", "晚安"]),
        ],
    )
    def test_what_csv_cannot_read_is_at_most_a_malformed_row(
        self, tmp_path: Path, name: str, content: str, texts: list[str]
    ) -> None:
        assert [" ".join(line.split()) for line in lines(tmp_path / name, content)] == texts

    def test_invalid_utf8_affects_one_line_only(self, tmp_path: Path) -> None:
        """That line is dropped, and the rest of the video is read."""
        rows = b"a\xffb,1,2019-01-01 00:00:00\nc,2,2019-01-01 00:00:00\n"
        assert lines(tmp_path / "1.csv", rows) == ["c"]


class TestDayFile:
    @pytest.mark.parametrize(("gap_s", "expected"), [(59.0, 2), (61.0, 1)])
    def test_the_gap_that_splits_can_be_chosen(self, tmp_path: Path, gap_s: float, expected: int) -> None:
        path = written(tmp_path / "2019-5-12.txt", "TIME9:59ONLINE1\n草\nTIME10:0ONLINE1\n草\n")
        assert len(read(path, Options(session_gap_s=gap_s))[0]) == expected

    def test_silent_viewers_do_not_end_a_stream(self, tmp_path: Path) -> None:
        """The viewer count is still recorded every minute, so the stream is on."""
        counts = "".join(f"TIME14:{minute}ONLINE58\n" for minute in range(60))
        path = written(tmp_path / "1.txt", f"TIME14:0ONLINE5\n1:早\n{counts}1:晚\nV1\n")
        assert [doc.lines for doc in read(path)[0]] == [["早", "晚"]]

    def test_midnight_does_not_end_a_stream(self, tmp_path: Path) -> None:
        path = written(tmp_path / "1.txt", "TIME23:59ONLINE1\n草\nTIME0:0ONLINE1\n草\n")
        assert len(read(path)[0]) == 1

    @pytest.mark.parametrize("trailer", ["", "V1\n", "SPEAKERNUM1;5:阿猫:3\n", "SPEAKERNUM1;5:阿猫:3\nV1\n"])
    def test_the_version_is_found_with_and_without_the_last_lines(self, tmp_path: Path, trailer: str) -> None:
        """A short number may also be a user id."""
        assert lines(tmp_path / "1.txt", f"TIME1:0ONLINE1\n5:草:好\n5:晚安\n{trailer}") == ["草:好", "晚安"]

    def test_two_rooms_on_one_day_have_different_names(self) -> None:
        assert name_of(Path("rooms/1000/2021-1-13.txt")) != name_of(Path("rooms/1001/2021-1-13.txt"))


class TestXml:
    @pytest.mark.parametrize("unit", [1, 1000])
    def test_seconds_and_milliseconds_split_alike(self, tmp_path: Path, unit: int) -> None:
        """Nine minutes of silence do not split a recording, eleven do."""
        times = (0, 540, 1200)
        rows = "".join(d("草", f"{t}.0,1,25,1,{(1610516217 + t) * unit},0,1,0") for t in times)
        assert [len(doc.lines) for doc in read(written(tmp_path / "a.xml", f"<i>{rows}</i>"))[0]] == [2, 1]

    def test_a_video_is_sorted_and_never_split(self, tmp_path: Path) -> None:
        """Viewers comment on it for years."""
        rows = d("后", "500.0,1,25,1,1400000000,0,a,9") + d("先", "2.0,1,25,1,1600000000,0,b,8")
        assert [doc.lines for doc in read(written(tmp_path / "a.xml", f"<i>{rows}</i>"))[0]] == [["先", "后"]]

    @pytest.mark.parametrize("mode", ["7", "8", "9"])
    def test_scripts_are_dropped(self, tmp_path: Path, mode: str) -> None:
        assert lines(tmp_path / "a.xml", f"<i>{d('x', f'1.0,{mode},25,1,1584268892,0,a,2')}{d('草')}</i>") == ["草"]

    @pytest.mark.parametrize("p", ["", "1,2", "nan,1,25,1,1,0,a,2", "1.0,x,25,1,1,0,a,2", "1.0,1,25,1,inf,0,a,2"])
    def test_a_row_without_the_fields_of_a_danmaku_is_malformed(self, tmp_path: Path, p: str) -> None:
        path = written(tmp_path / "a.xml", f"<i>{d('x', p)}<d>y</d>{d('草')}</i>")
        found, tally = read(path)
        assert ([doc.lines for doc in found], tally.dropped) == ([["草"]], {"malformed row": 2})

    def test_entities_are_refused(self, tmp_path: Path) -> None:
        """The error names the file."""
        lol = '<!DOCTYPE i [<!ENTITY a "哈哈哈哈"><!ENTITY b "&a;&a;&a;&a;">]>'
        path = written(tmp_path / "lol.xml", f'<?xml version="1.0"?>{lol}<i>{d("&b;")}</i>')
        with pytest.raises(ValueError, match=r"lol\.xml has a document type declaration"):
            read(path)

    def test_characters_that_xml_forbids_are_removed(self, tmp_path: Path) -> None:
        forbidden = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF]))
        references = "&#0;&#x1B;&#xFFFE;&#xD800;&#x110000;"
        assert lines(tmp_path / "a.xml", f"<i>{d(f'草{forbidden}{references}好&#x2764;&#10084;')}</i>") == ["草好❤❤"]

    def test_a_wrong_declared_encoding_is_ignored(self, tmp_path: Path) -> None:
        assert lines(tmp_path / "a.xml", f'<?xml version="1.0" encoding="GB2312"?><i>{d("草")}</i>') == ["草"]

    def test_two_recordings_in_one_file_are_both_read(self, tmp_path: Path) -> None:
        one = f'<?xml version="1.0"?>\n<i>\n{d("草")}\n{d("好")}\n</i>\n'
        assert lines(tmp_path / "a.xml", one + one) == ["草", "好", "草", "好"]

    def test_a_large_file_is_read_across_its_chunks(self, tmp_path: Path) -> None:
        """It is one line, as Bilibili sends it; a character may lie across two chunks."""
        texts = [f"第{number}条弹幕" for number in range(5000)]
        rows = "".join(d(text, f"{number}.0,1,25,1,1,0,a,2") for number, text in enumerate(texts))
        assert lines(tmp_path / "a.xml", f"<i>{rows}</i>") == texts


class TestAss:
    def test_the_file_names_its_columns(self, tmp_path: Path) -> None:
        events = "[Events]\nFormat: Start, Style, Text\nDialogue: 0:00:01.00,R2L,{\\b1}草, 好\\N晚安\n"
        assert lines(tmp_path / "a.ass", f"[Script Info]\n{events}") == ["草, 好 晚安"]

    @pytest.mark.parametrize("text", ["阿猫", "{\\cffffff}阿猫:"])
    def test_a_text_that_may_be_a_user_name_is_dropped(self, tmp_path: Path, text: str) -> None:
        line = f"Dialogue: 0,0:00:12.34,0:00:24.00,Danmaku,,0,0,44,Banner;6;0;30,{text}\n"
        assert lines(tmp_path / "a.ass", f"[Script Info]\n[Events]\n{line}") == []


class TestJsonLines:
    ROWS = (
        '{"msg": "b", "at": 2, "room": "x"}\n{"msg": "a", "at": "1.5", "room": "x"}\n{"msg": "c", "at": 3, "room": 7}\n'
    )

    def test_fields_can_be_named(self, tmp_path: Path) -> None:
        """A named document is sorted; the split depends on its name, not on its file."""
        settings = Options(text_column="msg", time_column="at", document_field="room")
        found, _ = read(written(tmp_path / "a.jsonl", self.ROWS), settings)
        assert [(doc.lines, doc.source) for doc in found] == [(["a", "b"], "x"), (["c"], "7")]

    @pytest.mark.parametrize("field", ["text_column", "time_column", "document_field"])
    def test_a_missing_field_is_an_error_that_lists_the_fields(self, tmp_path: Path, field: str) -> None:
        settings = Options(**{"text_column": "msg", field: "nope"})  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match=f"no object has a field 'nope'; .* 'msg', 'at', 'room': .*--{field.replace('_', '-')}"
        ):
            read(written(tmp_path / "a.jsonl", self.ROWS), settings)

    @pytest.mark.parametrize(
        "time",
        ["1610516217", "1610516217493", '"1610516217.5"', '"2021-01-13T13:36:57+08:00"', '"2021-01-13T05:36:57Z"'],
    )
    def test_times_may_be_given_in_several_ways(self, tmp_path: Path, time: str) -> None:
        """An hour after the first danmaku a new document begins, in whatever format the times are."""
        rows = f'{{"text": "早", "ts": {time}}}\n{{"text": "晚", "ts": 1610520000}}\n'
        assert len(read(written(tmp_path / "a.jsonl", rows))[0]) == 2

    @pytest.mark.parametrize("time", ["null", "true", '"soon"', "[1]", "1e999", '"nan"'])
    def test_an_invalid_time_is_malformed(self, tmp_path: Path, time: str) -> None:
        rows = f'{{"text": "早", "ts": 1}}\n{{"text": "晚", "ts": {time}}}\n'
        found, tally = read(written(tmp_path / "a.jsonl", rows), JSON)
        assert (found[0].lines, tally.dropped) == (["早"], Counter({"malformed row": 1}))

    def test_other_objects_may_come_first(self, tmp_path: Path) -> None:
        assert lines(tmp_path / "a.jsonl", '{"room": 1}\n{"text": "草", "ts": 1}\n') == ["草"]

    def test_half_a_surrogate_pair_is_replaced(self, tmp_path: Path) -> None:
        """JSON can express it, UTF-8 cannot."""
        (line,) = lines(tmp_path / "a.jsonl", '{"text": "草\\ud83d", "ts": 1}\n')
        assert line.encode() == "草\ufffd".encode()
