"""Reading danmaku: what is in a file arrives, in the viewers' order, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.corpus import find_documents, hash_of, read_csv, read_text


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("草,1.5,2019-01-01 00:00:00", "草"),
        ("好听,真的,好听,1.5,2019-01-01 00:00:00", "好听,真的,好听"),
        (",,,1.5,2019-01-01 00:00:00", ",,"),
        ('"引号",7,2019-01-01 00:00:00', '"引号"'),
        ("Ｎｉｃｅ！😀,0.0,2019-01-01 00:00:00\r", "Ｎｉｃｅ！😀"),
        ("分\u2028行\x0b,1,2019-01-01 00:00:00", "分\u2028行\x0b"),
        (",1,2019-01-01 00:00:00", ""),
        ("\ufeff第一行,1,2019-01-01 00:00:00", "第一行"),
    ],
)
def test_a_row_gives_its_text_whole(tmp_path: Path, row: str, text: str) -> None:
    """The text may hold commas, quotes and exotic separators; it ends before the last two columns."""
    assert read_csv(write(tmp_path / "1.csv", row + "\n")).lines == [text]


def test_rows_come_in_the_order_of_the_video(tmp_path: Path) -> None:
    """By seconds as numbers; those of the same second stay as they stand in the file."""
    rows = ["c,10.0", "a,2", "d,10", "b,9.5"]
    path = write(tmp_path / "1.csv", "".join(f"{row},2019-01-01 00:00:00\n" for row in rows))
    assert read_csv(path).lines == ["a", "b", "c", "d"]


def test_rows_that_are_no_danmaku_are_counted(tmp_path: Path) -> None:
    """Fragments of scripts, rows without a valid time; empty rows at the end of a file are nothing at all."""
    rows = ["草,1,2019-01-01 00:00:00", "<script>", "草,x,2019-01-01 00:00:00", "草,1", "", " "]
    document = read_csv(write(tmp_path / "1.csv", "\n".join(rows)))
    assert (document.id, document.lines, document.malformed) == ("1", ["草"], 3)


def test_bytes_that_are_not_utf8_spoil_one_character_only(tmp_path: Path) -> None:
    """The rest of the video is still read."""
    path = tmp_path / "1.csv"
    path.write_bytes(b"a\xffb,1,2019-01-01 00:00:00\nc,2,2019-01-01 00:00:00\n")
    assert read_csv(path).lines == ["a\ufffdb", "c"]


def test_documents_are_ordered_by_a_hash_of_their_names_wherever_they_lie(tmp_path: Path) -> None:
    """Not by folder, so neighbours are unrelated, and the order survives moving the corpus."""
    for name in "abcdefgh":
        write(tmp_path / "one" / f"{name}.csv", "")
        write(tmp_path / "two" / name / f"{name}.csv", "")
    one = [path.stem for path in find_documents([tmp_path / "one"])[0]]
    assert one == [path.stem for path in find_documents([tmp_path / "two"])[0]]
    assert one == sorted("abcdefgh", key=hash_of) != sorted("abcdefgh")


def test_the_hash_of_a_name_never_changes() -> None:
    """Held-out shares of different years rely on it."""
    assert hash_of("5000") == 4757349290698273348


def test_a_second_file_of_the_same_video_is_left_out_and_counted(tmp_path: Path) -> None:
    """The first wins; a file that two of the paths reach is no duplicate."""
    first = write(tmp_path / "a" / "7.csv", "")
    write(tmp_path / "b" / "7.csv", "")
    assert find_documents([tmp_path]) == ([first], 1)
    assert find_documents([tmp_path / "a", first]) == ([first], 0)


def test_a_path_without_danmaku_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A misspelt folder must not become an empty corpus."""
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        find_documents([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"no \.csv file under"):
        find_documents([tmp_path])


def test_text_is_read_back_document_by_document(tmp_path: Path) -> None:
    """A blank line ends a document, however many of them and whether or not one ends the file."""
    path = write(tmp_path / "t.txt", "\n草\n好 听\n\n\n晚安\r\n")
    assert [(document.id, document.lines) for document in read_text(path)] == [
        ("0", ["草", "好 听"]),
        ("1", ["晚安"]),
    ]
