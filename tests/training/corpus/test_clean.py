"""Cleaning keeps danmaku that can be learned from, counts the others, and keeps documents on their
side of the split.
"""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import training.corpus.files as corpus_files
from service.recordings import Options, Recording
from service.tokenizer import SPECIAL_TOKENS
from training.corpus.clean import clean
from training.corpus.files import SPLITS, Shard, Source, one_line, read, read_text, split_of, text_files

SAMPLES = Path(__file__).parents[2] / "data"
WHEN = "2019-01-01 00:00:00"


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "given.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, "草", "好", "听", ",", "awsl"]) + "\n", encoding="utf-8")
    return path


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text},{i},{WHEN}\n" for i, text in enumerate(texts)), encoding="utf-8")
    return path


def lines_of(path: Path) -> list[list[str]]:
    return [document.lines for document in read_text(path)]


def test_danmaku_that_the_vocabulary_cannot_spell_are_dropped_and_their_characters_reported(
    tmp_path: Path, vocab: Path
) -> None:
    """Each danmaku counts a character once; one that can be spelled after normalising is unchanged."""
    write(tmp_path / "in/1.csv", "草", "龘龘草", "龘靐", "好听,好听", "AWSL")
    report = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    assert lines_of(tmp_path / "out/train.txt") == [["草", "好听,好听", "AWSL"]]
    assert report["dropped"] == {"unspellable": 2}
    assert report["commonest_unspellable_characters"] == {"龘": 2, "靐": 1}
    assert report["kept"] == {"train": {"documents": 1, "lines": 3, "tokens": 7}, "heldout": {}}


def test_danmaku_without_a_token_are_blank(tmp_path: Path, vocab: Path) -> None:
    """They are spaces and the control characters that BERT's normaliser removes."""
    write(tmp_path / "in/1.csv", "草", "  ", "\u3000", "\u200b", "")
    report = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    assert lines_of(tmp_path / "out/train.txt") == [["草"]]
    assert report["dropped"] == {"blank": 4}


def test_malformed_rows_duplicates_and_empty_documents_are_counted(tmp_path: Path, vocab: Path) -> None:
    """Every dropped row has its reason in the report, and the report is also the file."""
    write(tmp_path / "in/a/1.csv", "草")
    write(tmp_path / "in/b/1.csv", "好")
    write(tmp_path / "in/a/2.csv", "龘")
    (tmp_path / "in/a/3.csv").write_text(f"<script>\n好,1,{WHEN}\n", encoding="utf-8")
    (tmp_path / "in/a/4.csv").write_text("", encoding="utf-8")
    report = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    assert report["dropped"] == {"malformed row": 1, "unspellable": 1}
    assert report["dropped_documents"] == {"left empty": 1}
    assert report["dropped_files"] == {"duplicate": 1, "without danmaku": 1}
    assert (report["files_read"], report["documents_read"], report["lines_read"]) == (4, 3, 4)
    assert json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8")) == report


def test_a_danmaku_is_always_one_line() -> None:
    """Otherwise a pasted separator would end a document."""
    assert one_line(" 分\u2028行\x0b\r\n\n然后\t 好 ") == "分 行 然后 好"


def test_the_splits_share_no_document_and_lose_none(tmp_path: Path, vocab: Path) -> None:
    """The share is about what was requested and depends on names alone: more documents do not move the old ones."""
    for number in range(300):
        write(tmp_path / f"in/{number}.csv", "草" * (number + 1))
    clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0.2)
    split = {}
    for name in ("train", "heldout"):
        split[name] = {len(lines[0]) - 1 for lines in lines_of(tmp_path / f"out/{name}.txt")}
    assert split["train"] | split["heldout"] == set(range(300))
    assert not split["train"] & split["heldout"]
    assert 40 <= len(split["heldout"]) <= 80
    for number in range(150, 300):
        (tmp_path / f"in/{number}.csv").unlink()
    clean([tmp_path / "in"], tmp_path / "less", vocab=vocab, heldout=0.2)
    less = {len(lines[0]) - 1 for lines in lines_of(tmp_path / "less/heldout.txt")}
    assert less == {number for number in split["heldout"] if number < 150}


def test_a_larger_held_out_share_contains_the_smaller() -> None:
    """So a model judged on 10 % was not trained on what a 5 % split held out."""
    names = [str(number) for number in range(1000)]
    small = {name for name in names if split_of(name, 0.05) == "heldout"}
    assert small < {name for name in names if split_of(name, 0.1) == "heldout"}


def test_the_vocabulary_is_learned_from_the_training_documents_only(tmp_path: Path) -> None:
    for number in range(40):
        held = split_of(str(number), 0.3) == "heldout"
        write(tmp_path / f"in/{number}.csv", *["靐" if held else "草"] * 20)
    report = clean([tmp_path / "in"], tmp_path / "out", vocab_size=100, heldout=0.3)
    vocab = (tmp_path / "out/vocab.txt").read_text(encoding="utf-8").split()
    assert vocab[:5] == list(SPECIAL_TOKENS)
    assert "草" in vocab and "靐" not in vocab
    assert report["kept"]["heldout"] == {}


def test_a_clean_that_fails_in_the_middle_changes_nothing(
    tmp_path: Path, vocab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two videos cannot be read: the former corpus remains, without partial files."""
    write(tmp_path / "in/1.csv", "草")
    second = write(tmp_path / "in/2.csv", "好")
    clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(before) == {"train.txt", "heldout.txt", "vocab.txt", "report.json"}
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*SPECIAL_TOKENS, "草"]) + "\n", encoding="utf-8")
    opened = corpus_files.open_recording

    def fail_at_the_second(path: Path, options: Options) -> Recording:
        if path == second:
            raise OSError("the disk is broken")
        return opened(path, options)

    monkeypatch.setattr(corpus_files, "open_recording", fail_at_the_second)
    with pytest.raises(OSError, match="the disk is broken"):
        clean([tmp_path / "in"], tmp_path / "out", vocab=other, heldout=0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_empty_result_is_an_error_with_the_reasons(tmp_path: Path, vocab: Path) -> None:
    """A wrong vocabulary or column order shows at once, not in the next command."""
    write(tmp_path / "in/1.csv", "龘")
    with pytest.raises(ValueError, match="no danmaku left from 1 documents.*'unspellable': 1"):
        clean([tmp_path / "in"], tmp_path / "out", vocab=vocab)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout": 1.0}, "invalid heldout: 1.0"),
        ({"heldout": -0.1}, "invalid heldout: -0.1"),
        ({"vocab_size": 7}, "invalid vocab_size: 7"),
        ({"jobs": 0}, "invalid jobs: 0"),
        ({"format_name": "srt"}, "invalid format: 'srt'; expected one of .*csv"),
        ({"shard": Shard(0, 8)}, "no vocabulary for shard 0/8; expected --vocab"),
    ],
)
def test_invalid_settings_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """The error comes before anything is read."""
    with pytest.raises(ValueError, match=message):
        clean([tmp_path], tmp_path / "out", **options)


@pytest.fixture
def spelling(tmp_path: Path, danmaku: Path) -> Path:
    """A vocabulary for the samples."""
    clean([danmaku], tmp_path / "spelling", vocab_size=300)
    return tmp_path / "spelling/vocab.txt"


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_every_row_of_every_format_is_kept_or_dropped_for_a_reason(tmp_path: Path, spelling: Path) -> None:
    """The folder has files of all formats; files that cannot contain danmaku are counted, too."""
    shutil.copytree(SAMPLES / "formats", tmp_path / "in")
    (tmp_path / "in/notes.xml").write_text("<notes><to>nobody</to></notes>", encoding="utf-8")
    settings = Options(time_column="ts")
    report: Any = clean([tmp_path / "in"], tmp_path / "out", vocab=spelling, settings=settings)
    kept = sum(report["kept"][split].get("lines", 0) for split in SPLITS)
    assert report["lines_read"] == kept + sum(report["dropped"].values())
    assert set(report["formats"]) == {"xml", "jsonl", "day", "csv", "ass"}
    (left_out,) = report["left_out_files"]
    assert "danmaku_text_pure.txt: plain text beside recordings" in left_out
    for unit in ("files", "documents", "lines"):
        assert sum(counts.get(unit, 0) for counts in report["formats"].values()) == report[f"{unit}_read"]
    assert report["dropped_files"]["without danmaku"] == 1
    written = [line for split in SPLITS for lines in lines_of(tmp_path / f"out/{split}.txt") for line in lines]
    assert len(written) == kept
    assert not [line for line in written if "阿猫" in line or "9000000" in line]


def test_a_named_file_that_cannot_be_read_is_an_error_with_the_reason(tmp_path: Path, vocab: Path) -> None:
    path = tmp_path / "video.flv"
    path.write_bytes(b"FLV\x01\x05\x00\x00\x00\x09")
    with pytest.raises(ValueError, match="no danmaku left .*video.flv is not text"):
        clean([path], tmp_path / "out", vocab=vocab)


def test_any_number_of_processes_writes_the_same_bytes(
    tmp_path: Path, danmaku: Path, spelling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reports are equal, too. Parts have two files, so that there are several."""
    for number, (jobs, files) in enumerate([(1, 500), (1, 2), (2, 2)]):
        monkeypatch.setattr("training.corpus.clean.PART_FILES", files)
        clean([danmaku], tmp_path / str(number), vocab=spelling, heldout=0.3, jobs=jobs)
    first, *others = [bytes_of(tmp_path / str(number)) for number in range(3)]
    assert set(first) == {"train.txt", "heldout.txt", "vocab.txt", "report.json"}
    assert first["heldout.txt"] and others == [first, first]


def test_concatenated_shards_are_the_whole_corpus(tmp_path: Path, danmaku: Path, spelling: Path) -> None:
    """So results do not depend on their number; one of them may be empty."""
    clean([danmaku], tmp_path / "whole", vocab=spelling, heldout=0.3)
    reports: list[Any] = [
        clean([danmaku], tmp_path / "shards", vocab=spelling, heldout=0.3, shard=Shard(index, 20))
        for index in range(20)
    ]
    assert 0 in [report["files_read"] for report in reports]
    assert (
        sum(report["lines_read"] for report in reports)
        == json.loads((tmp_path / "whole/report.json").read_text(encoding="utf-8"))["lines_read"]
    )
    for split in SPLITS:
        shards = b"".join(path.read_bytes() for path in text_files(tmp_path / "shards", split))
        assert shards == (tmp_path / f"whole/{split}.txt").read_bytes() != b""


def test_sessions_of_one_day_are_on_one_side_of_the_split(tmp_path: Path, vocab: Path) -> None:
    """They may be one interrupted stream."""
    for room in range(100):
        path = tmp_path / f"in/{room}/2019-5-12.txt"
        path.parent.mkdir(parents=True)
        text = "草" * (room + 1)
        path.write_text(f"TIME1:0ONLINE1\n{text}\nTIME5:0ONLINE1\n{text}\n", encoding="utf-8")
    report: Any = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0.5)
    assert report["documents_read"] == 200
    train, heldout = ({line for (line,) in lines_of(tmp_path / f"out/{split}.txt")} for split in SPLITS)
    assert len(train) + len(heldout) == 100
    assert not train & heldout


def test_a_file_that_another_process_refuses_is_named(tmp_path: Path, vocab: Path) -> None:
    """No partial files remain."""
    for number in range(501):
        write(tmp_path / f"in/{number}.csv", "草")
    (tmp_path / "in/bad.jsonl").write_text('{"gift": "草"}\n', encoding="utf-8")
    report: Any = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, jobs=2)
    (refused,) = report["refused_files"]
    assert "bad.jsonl: no object has a field 'text'; the first has 'gift'" in refused
    assert report["dropped_files"]["refused"] == 1 and report["kept"]["train"]["lines"] > 0


def test_memory_does_not_grow_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file has three times as many danmaku; here, a document has at most two hundred."""
    monkeypatch.setattr("service.recordings.documents.MAX_LINES", 200)
    rows = {
        "csv": "草草草,1,2019-01-01 00:00:00\n",
        "txt": "草草草\n",
        "jsonl": '{"text": "草草草"}\n',
        "xml": '<d p="1.0,1,25,1,1,0,a,2">草草草</d>',
        "ass": "Dialogue: 0,0:00:01.00,0:00:02.00,R2L,,0,0,0,,草草草\n",
    }
    for suffix, row in rows.items():
        peaks = []
        for size in (6_000, 18_000):
            path = tmp_path / f"{size}.{suffix}"
            path.write_text(("<i>" if suffix == "xml" else "") + row * size, encoding="utf-8")
            tracemalloc.start()
            counts: Any = Counter()
            number = sum(len(doc.lines) for doc in read(Source("a", path, 0), None, Options(), counts))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            assert number == size
        assert peaks[1] < 1.2 * peaks[0] + 50_000, (suffix, peaks)
