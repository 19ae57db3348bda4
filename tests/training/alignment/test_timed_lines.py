"""A line is a text and a moment of a video; moments are found by the second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.tokenizer import SPECIAL_TOKENS, Tokenizer
from training.alignment.timed_lines import TimedLines, kind_of, read_moments
from training.corpus.files import split_of

TOKENIZER = Tokenizer([*SPECIAL_TOKENS, "awsl", "mea", *"草哈好来了晚安"])


def write_video(folder: Path, number: int, *rows: tuple[str, float]) -> None:
    folder.mkdir(exist_ok=True)
    lines = (f"{text},{second:.5f},2019-05-01 00:00:00\n" for text, second in rows)
    (folder / f"{number}.csv").write_text("".join(lines), encoding="utf-8")


def texts_of(lines: TimedLines) -> list[str]:
    return [lines.texts[text] for text in lines.text_of]


def test_lines_are_in_the_order_of_their_seconds(tmp_path: Path) -> None:
    """Seconds count from the first line of a video; texts that the model sees as equal are one."""
    write_video(tmp_path, 7, ("awsl", 12.5), ("草", 10.0), ("AWSL", 11.0))
    lines = read_moments([tmp_path], TOKENIZER)
    assert texts_of(lines) == ["草", "awsl", "awsl"]
    assert lines.seconds.tolist() == [0.0, 1.0, 2.5]
    assert lines.counts.tolist() == [1, 2]


def test_unspellable_texts_are_left_out(tmp_path: Path) -> None:
    write_video(tmp_path, 7, ("草", 1.0), ("草龘", 2.0), (" ", 3.0), ("好", 4.0))
    lines = read_moments([tmp_path], TOKENIZER)
    assert texts_of(lines) == ["草", "好"]
    vocab = TOKENIZER.vocab
    assert [[vocab[t] for t in lines.tokens[a:b]] for a, b in zip(lines.starts, lines.starts[1:], strict=False)] == [
        ["草"],
        ["好"],
    ]


def test_the_split_is_that_of_clean(tmp_path: Path) -> None:
    """So neither learns from held-out videos."""
    for number in range(20):
        write_video(tmp_path, number, ("草", 1.0), ("好", 2.0))
    parts = {split: read_moments([tmp_path], TOKENIZER, split=split, heldout=0.3) for split in ("train", "heldout")}
    held_out = sum(split_of(str(number), 0.3) == "heldout" for number in range(20))
    assert 0 < held_out < 20
    assert [len(np.unique(parts[split].document_of)) for split in parts] == [20 - held_out, held_out]


def test_recordings_without_seconds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("草\n好\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no file has the times of its danmaku"):
        read_moments([path], TOKENIZER)


def test_a_split_without_videos_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path, 7, ("草", 1.0))
    with pytest.raises(ValueError, match="no danmaku of the split heldout"):
        read_moments([tmp_path], TOKENIZER, split="heldout", heldout=0.0)


def test_a_moment_ends_at_its_window_and_at_the_video(tmp_path: Path) -> None:
    """The number of its neighbours is limited."""
    write_video(tmp_path, 1, ("草", 0.0), ("好", 4.0), ("来了", 9.5))
    write_video(tmp_path, 2, ("草", 0.0), ("好", 1.0), ("来了", 2.0), ("晚安", 3.0))
    lines = read_moments([tmp_path], TOKENIZER)
    videos = [np.flatnonzero(lines.document_of == document) for document in np.unique(lines.document_of)]
    short, long = sorted(videos, key=len)
    first, last = lines.neighbours(5.0, most=20)
    assert [(first[n] - short[0], last[n] - short[0]) for n in short] == [(0, 2), (0, 2), (2, 3)]
    assert [(first[n] - long[0], last[n] - long[0]) for n in long] == [(0, 4)] * 4
    first, last = lines.neighbours(5.0, most=1)
    assert [(first[n] - long[0], last[n] - long[0]) for n in long] == [(0, 2), (0, 3), (1, 4), (2, 4)]


def test_loading_restores_what_was_saved(tmp_path: Path) -> None:
    write_video(tmp_path / "videos", 7, ("草", 1.0), ("mea", 2.0), ("草", 3.0))
    lines = read_moments([tmp_path / "videos"], TOKENIZER)
    lines.save(tmp_path / "lines.npz")
    again = TimedLines.load(tmp_path / "lines.npz")
    assert again.texts == lines.texts
    for name in ("tokens", "starts", "text_of", "seconds", "document_of", "kinds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(lines, name))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("哈 哈 哈", "哈"),
        ("哈 哈 哈 哈 ！", "哈"),
        ("来 了 来 了", "来了"),
        ("awsl ~", "awsl"),
        ("？ ？", "？"),
        ("2333", "23"),
    ],
)
def test_repeats_and_marks_make_no_new_kind(text: str, kind: str) -> None:
    assert kind_of(text) == kind
