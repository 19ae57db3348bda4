"""Questions are found by their mark, which is then removed."""

from __future__ import annotations

from pathlib import Path

from training.heads.questions import find_questions


def test_marks_label_texts_and_are_removed_from_them(tmp_path: Path) -> None:
    lines = [
        "这是什么歌？",
        "为什么呢??",
        "好听！",
        "好听好听。",
        "好听好听好听",
        "好听好听",
        "吗？",
        "真的假的？",
        "真的假的",
    ]
    rows = "".join(f"{line},{second}.5,2019-05-31 10:00:00\n" for second, line in enumerate(lines))
    (tmp_path / "1.csv").write_text(rows, encoding="utf-8")

    assert set(find_questions([tmp_path], documents=1)) == {
        ("这是什么歌", "question"),
        ("为什么呢", "question"),
        ("好听好听", "other"),
        ("好听好听好听", "other"),
    }  # without what is too short, and what stands with a mark and without
