"""The files of a corpus: finding, ordering and sharding them, and finding the cleaned ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from training.corpus.files import Shard, find_sources, hash_of, kept_counts, read_text, split_of, text_files


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def cleaned(directory: Path, *suffixes: str) -> Path:
    for number, suffix in enumerate(suffixes, 1):
        kept = {"train": {"documents": 1, "lines": number}, "heldout": {}}
        write(directory / f"report{suffix}.json", json.dumps({"kept": kept}))
    return directory


def test_files_are_ordered_by_a_hash_of_their_names(tmp_path: Path) -> None:
    """Folders do not matter, so neighbours are unrelated, and a moved corpus has the same order."""
    for name in "12345678":
        write(tmp_path / "one" / f"{name}.csv")
        write(tmp_path / "two" / name / f"{name}.csv")
    one = [source.name for source in find_sources([tmp_path / "one"])[0]]
    assert one == [source.name for source in find_sources([tmp_path / "two"])[0]]
    assert one == sorted("12345678", key=hash_of) != sorted("12345678")


def test_the_hash_of_a_name_never_changes() -> None:
    """Held-out shares of different years depend on it."""
    assert hash_of("5000") == 4757349290698273348


def test_the_held_out_documents_never_change() -> None:
    """Otherwise a model would be evaluated on documents that an earlier version was trained on."""
    assert [name for name in range(5000, 5100) if split_of(str(name), 0.05) == "heldout"] == [5015, 5064]


def test_a_second_file_of_the_same_video_is_left_out_and_counted(tmp_path: Path) -> None:
    """The first one is read; a file that two of the paths contain is not a duplicate."""
    first = write(tmp_path / "a" / "7.csv")
    write(tmp_path / "b" / "7.csv")
    sources, duplicates, _ = find_sources([tmp_path])
    assert ([source.path for source in sources], duplicates) == ([first], 1)
    assert find_sources([tmp_path / "a", first])[1] == 0


def test_days_of_two_rooms_are_two_documents(tmp_path: Path) -> None:
    """This holds whether the archive or its rooms are given."""
    for room in ("1000", "1001"):
        write(tmp_path / room / "2021-1-13.txt")
    for paths in ([tmp_path], [tmp_path / "1000", tmp_path / "1001"]):
        sources, duplicates, _ = find_sources(paths)
        assert ({source.name for source in sources}, duplicates) == ({"1000/2021-1-13", "1001/2021-1-13"}, 0)


def test_the_most_complete_format_of_a_recording_is_read(tmp_path: Path) -> None:
    """Subtitles leave out danmaku that would have overlapped."""
    for suffix in (".ass", ".xml", ".txt"):
        write(tmp_path / f"stream{suffix}")
    sources, duplicates, left_out = find_sources([tmp_path])
    assert ([source.path.suffix for source in sources], duplicates) == ([".xml"], 1)
    assert [path.suffix for path, _ in left_out] == [".txt"]


def test_only_files_that_may_contain_danmaku_are_read(tmp_path: Path) -> None:
    """There are videos beside recordings and a vocabulary beside text; a named format has its own suffixes only."""
    for name in ("a.flv", "b.XML", "c.csv", "d.jpg", "vocab.txt"):
        write(tmp_path / name)
    assert {source.path.name for source in find_sources([tmp_path])[0]} == {"b.XML", "c.csv"}
    assert {source.path.name for source in find_sources([tmp_path], "csv")[0]} == {"c.csv"}


def test_a_file_name_may_be_invalid_utf8(tmp_path: Path) -> None:
    """Archives made on Windows contain such names."""
    path = os.fsencode(tmp_path) + b"/\xb2\xdd.csv"
    try:
        Path(os.fsdecode(path)).write_text("")
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    assert len(find_sources([tmp_path])[0]) == 1


def test_a_path_without_danmaku_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A misspelt folder must not become an empty corpus."""
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        find_sources([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"no recording under .*: expected files that end in \.xml"):
        find_sources([tmp_path])
    write(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"no recording under"):
        find_sources([tmp_path], "ass")


@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_divide_the_files(tmp_path: Path, count: int) -> None:
    """They keep the order and the duplicates, so nothing is lost or repeated."""
    for number in range(40):
        write(tmp_path / "a" / f"{number}.csv")
    for number in range(9):
        write(tmp_path / "b" / f"{number}.csv")
    shards = [find_sources([tmp_path], shard=Shard(index, count)) for index in range(count)]
    whole, duplicates, _ = find_sources([tmp_path])
    assert [source for sources, *_ in shards for source in sources] == whole
    assert sum(number for _, number, _ in shards) == duplicates == 9


@pytest.mark.parametrize("text", ["8/8", "1", "-1/8", "a/b", "0/0", "1/8/2", ""])
def test_an_invalid_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="shard"):
        Shard.parse(text)


def test_text_is_read_back_document_by_document(tmp_path: Path) -> None:
    """Blank lines end a document, one or several; the last document may end without one."""
    path = write(tmp_path / "t.txt", "\n草\n好 听\n\n\n晚安\r\n")
    other = write(tmp_path / "u.txt", "早\n\n")
    assert [document.lines for document in read_text(path)] == [["草", "好 听"], ["晚安"]]
    assert [document.lines for document in read_text([path, other])] == [["草", "好 听"], ["晚安"], ["早"]]


def test_cleaned_text_is_found_in_one_piece_and_in_shards(tmp_path: Path) -> None:
    """Shards are in order, and the counts are their sums."""
    one = cleaned(tmp_path / "one", "")
    assert text_files(one, "train") == [one / "train.txt"]
    many = cleaned(tmp_path / "many", "-00000-of-00002", "-00001-of-00002")
    names = ["heldout-00000-of-00002.txt", "heldout-00001-of-00002.txt"]
    assert [path.name for path in text_files(many, "heldout")] == names
    assert (kept_counts(many, "train"), kept_counts(many, "heldout")) == ({"documents": 2, "lines": 3}, {})


def test_a_missing_shard_is_an_error_that_says_which(tmp_path: Path) -> None:
    """Three of eight shards exist."""
    cleaned(tmp_path, *(f"-{index:05}-of-00008" for index in (0, 2, 7)))
    message = r"missing 5 of the 8 shards in .*: 1/8, 3/8, 4/8, 5/8, 6/8; .*clean --shard 1/8"
    with pytest.raises(FileNotFoundError, match=message):
        text_files(tmp_path, "train")


@pytest.mark.parametrize("second", ["", "-00000-of-00004"])
def test_two_cleanings_in_one_folder_are_an_error(tmp_path: Path, second: str) -> None:
    """It is unclear which one is meant."""
    cleaned(tmp_path, "-00000-of-00001", second)
    with pytest.raises(ValueError, match="several corpora in "):
        text_files(tmp_path, "train")


def test_a_folder_that_was_not_cleaned_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no report\.json in .*; expected a folder written by"):
        text_files(tmp_path, "train")
