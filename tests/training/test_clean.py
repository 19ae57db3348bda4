"""Cleaning: what can be learned from is kept, what cannot is counted, documents stay on their side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.tokenizer import SPECIAL_TOKENS
from training.clean import clean, one_line, split_of
from training.corpus import read_text

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
    """Each danmaku counts a character once; one that can be spelled after normalising stays as it was."""
    write(tmp_path / "in/1.csv", "草", "龘龘草", "龘靐", "好听,好听", "AWSL")
    report = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    assert lines_of(tmp_path / "out/train.txt") == [["草", "好听,好听", "AWSL"]]
    assert report["dropped"] == {"duplicate document": 0, "malformed row": 0, "unspellable": 2}
    assert report["commonest_unspellable_characters"] == {"龘": 2, "靐": 1}
    assert report["kept"] == {"train": {"documents": 1, "lines": 3, "tokens": 7}, "heldout": {}}


def test_danmaku_without_a_token_are_blank(tmp_path: Path, vocab: Path) -> None:
    """Spaces, and the control characters that BERT's normaliser removes, would be examples of nothing."""
    write(tmp_path / "in/1.csv", "草", "  ", "\u3000", "\u200b", "")
    report = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    assert lines_of(tmp_path / "out/train.txt") == [["草"]]
    assert report["dropped"] == {"duplicate document": 0, "malformed row": 0, "blank": 4}


def test_malformed_rows_duplicates_and_empty_documents_are_counted(tmp_path: Path, vocab: Path) -> None:
    """Every drop has its reason in the report, and the report is the file."""
    write(tmp_path / "in/a/1.csv", "草")
    write(tmp_path / "in/b/1.csv", "好")
    write(tmp_path / "in/a/2.csv", "龘")
    (tmp_path / "in/a/3.csv").write_text(f"<script>\n好,1,{WHEN}\n", encoding="utf-8")
    report = clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    dropped = {"duplicate document": 1, "malformed row": 1, "unspellable": 1, "document left empty": 1}
    assert report["dropped"] == dropped
    assert report["documents_read"] == 3
    assert json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8")) == report


def test_a_danmaku_stays_one_line_whatever_it_holds() -> None:
    """Otherwise a pasted separator would end a document."""
    assert one_line(" 分\u2028行\x0b\r\n\n然后\t 好 ") == "分 行 然后 好"


def test_the_splits_share_no_document_and_lose_none(tmp_path: Path, vocab: Path) -> None:
    """About the share that was asked for, by name alone: more documents do not move the old ones."""
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
    """What is held out is held out from the vocabulary too."""
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
    """The second of two videos cannot be read: the corpus of the day before is there, and no scraps."""
    write(tmp_path / "in/1.csv", "草")
    second = write(tmp_path / "in/2.csv", "好")
    clean([tmp_path / "in"], tmp_path / "out", vocab=vocab, heldout=0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(before) == {"train.txt", "heldout.txt", "vocab.txt", "report.json"}
    other = tmp_path / "other.txt"
    other.write_text("\n".join([*SPECIAL_TOKENS, "草"]) + "\n", encoding="utf-8")
    second.unlink()
    second.mkdir()  # a name that ends in .csv and cannot be read as a file
    with pytest.raises(IsADirectoryError):
        clean([tmp_path / "in"], tmp_path / "out", vocab=other, heldout=0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_corpus_of_which_nothing_is_left_is_an_error_with_the_reasons(tmp_path: Path, vocab: Path) -> None:
    """A wrong vocabulary or a wrong column order shows at once, not at the next command."""
    write(tmp_path / "in/1.csv", "龘")
    with pytest.raises(ValueError, match="nothing is left of 1 documents.*'unspellable': 1"):
        clean([tmp_path / "in"], tmp_path / "out", vocab=vocab)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout": 1.0}, "share is 1.0"),
        ({"heldout": -0.1}, "share is -0.1"),
        ({"vocab_size": 7}, "size is 7"),
    ],
)
def test_senseless_settings_are_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(ValueError, match=message):
        clean([tmp_path], tmp_path / "out", **options)
