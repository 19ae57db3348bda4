"""The overlap of two corpora is counted by danmaku, by distinct danmaku and by document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.corpus.overlap import Overlap, distinct_lines, overlap, write_unseen

TRAINING = "草\n草\nawsl\n晚安\n\n来了\n哈哈哈\n"
HELDOUT = "草\n草\n新番\n\nawsl\n晚安\n\n新番\n"


@pytest.fixture
def texts(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "train.txt", tmp_path / "heldout.txt"
    for path, text in zip(paths, (TRAINING, HELDOUT), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


@pytest.mark.parametrize("chunk", [2, 1_000_000])
def test_every_repetition_across_the_split_is_counted(texts: tuple[Path, Path], chunk: int) -> None:
    """The result does not depend on how the corpus falls into chunks."""
    seen = distinct_lines(texts[0], chunk_lines=chunk)
    assert len(seen) == 5 and (np.diff(seen.astype(object)) > 0).all()
    found = overlap(texts[1], seen, "train.txt")
    assert found == Overlap(
        other="train.txt",
        lines=6,
        lines_in_other=4,
        distinct_lines=4,
        distinct_lines_in_other=3,
        documents=3,
        documents_in_other=1,
    )
    assert str(found) == "66.7% of the 6 danmaku and 75.0% of the 4 distinct ones; 1 of the 3 documents almost whole"


def test_unseen_danmaku_are_written_as_documents(texts: tuple[Path, Path], tmp_path: Path) -> None:
    """A document without unseen danmaku is left out."""
    output = tmp_path / "unseen.txt"
    assert write_unseen(texts[1], distinct_lines(texts[0]), output) == 2
    assert output.read_text(encoding="utf-8") == "新番\n\n新番\n\n"


def test_nothing_was_seen_in_an_empty_corpus(texts: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    seen = distinct_lines(tmp_path / "empty.txt")
    assert overlap(texts[1], seen, "empty").lines_in_other == 0
    assert overlap(tmp_path / "empty.txt", seen, "empty").lines == 0
