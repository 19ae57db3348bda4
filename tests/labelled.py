"""A labelled task of our own: questions to the streamer and other danmaku, written for these tests."""

from __future__ import annotations

from itertools import product
from pathlib import Path

WHO, ASK = ("你", "主播", "她", "夸", "安"), ("是谁", "笑什么吗", "来了吗", "好吗")
QUESTIONS = [f"{who}{ask}" for who, ask in product(WHO, ASK)]
OTHERS = [f"{what}{end}" for what, end in product(("草", "哈", "可爱", "晚安", "天才"), ("哈", "好", "了", "死我"))]


def write_labelled(path: Path, texts: int = 20) -> Path:
    """Writes so many texts of each label."""
    rows = [(text, label) for label, part in (("question", QUESTIONS), ("other", OTHERS)) for text in part[:texts]]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path
