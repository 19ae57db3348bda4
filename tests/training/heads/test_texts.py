"""Labelled files: every format, errors, and splits without copies on both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.heads.texts import check_learnable, fold_text, read_labelled

ROWS = [("草", "a"), ('他说"好", 然后走了', "b"), ("晚安", "b")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", 'text,label\n草,a\n"他说""好"", 然后走了",b\n晚安,b\n'),
        ("x.csv", 'Label,id,Text\na,1,草\nb,2,"他说""好"", 然后走了"\nb,3,晚安\n'),
        ("x.tsv", '草\ta\n他说"好", 然后走了\tb\n晚安\tb\n'),
        ("x.ndjson", "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS)),
        ("x.jsonl", "".join(json.dumps({"label": f"{label} ", "text": text}) + "\n\n" for text, label in ROWS)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_every_format_is_read(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding=encoding)
    read = read_labelled(path)

    assert {text: read.names[label] for text, label in zip(read.texts, read.labels, strict=True)} == dict(ROWS)


def test_copies_are_merged_and_contradictions_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("awsl\ta\nＡＷＳＬ \ta\nawsl\tb\n草\ta\n草\tb\n好\tb\n")
    read = read_labelled(path)

    assert sorted(zip(read.texts, [read.names[label] for label in read.labels], strict=True)) == [
        ("awsl", "a"),
        ("好", "b"),
    ]
    assert (read.copies, read.contradictions) == (3, 1)


def test_a_split_has_the_share_of_every_label_and_no_copies(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("".join(f"草{number}\t{'a' if number % 4 else 'b'}\n" for number in range(100)))
    texts = read_labelled(path)
    learned, judged = texts.split(0.2, "test")

    assert [list(part.labels).count(1) for part in (learned, judged)] == [20, 5]
    assert [len(part) for part in (learned, judged)] == [80, 20]
    assert not set(map(fold_text, learned.texts)) & set(map(fold_text, judged.texts))
    assert texts.split(0.2, "test")[1].texts == judged.texts
    assert len(texts.without(judged)) == 80


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("x.txt", "草\ta\n", "expected a name that ends in .csv, .tsv, .ndjson, .jsonl"),
        ("x.tsv", "草\ta\n好\n", "line 2: 1 columns; expected text and label"),
        ("x.tsv", "草\ta\n \tb\n", "line 2: no text; expected a text and its label"),
        ("x.csv", "草,a\n好,\n", "line 2: no label"),
        ("x.tsv", "草\ta\n好\ta\n", "1 labels; expected at least 2"),
        ("x.ndjson", '{"text": "草"}\n', 'line 1: expected {"text"'),
        ("x.ndjson", '{"text": 1, "label": "a"}\n', "line 1: expected a text and a label that are strings"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(tmp_path: Path, name: str, content: str, fault: str) -> None:
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(ValueError) as refused:
        read_labelled(path)
    assert fault in str(refused.value)


def test_a_label_with_too_few_texts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("草1\ta\n草2\ta\n草3\ta\n草4\ta\n好\tb\n")

    with pytest.raises(ValueError, match="label 'b' has 1 different texts; expected at least 4"):
        check_learnable(read_labelled(path), path)
