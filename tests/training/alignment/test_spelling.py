"""Variants keep the meaning of a danmaku, opposites reverse it."""

from __future__ import annotations

import numpy as np
import pytest

from training.alignment.opposites import opposite, opposites
from training.alignment.variants import Variants, add_particle, change_marks, change_repeats, change_width

DRAWS = 30


@pytest.mark.parametrize(
    ("rule", "text", "possible"),
    [
        (change_repeats, "哈哈哈", {"哈" * count for count in range(2, 9)}),
        (change_repeats, "来了", {"来了来了", "来了来了来了"}),
        (change_width, "666", {"６６６"}),
        (change_marks, "为什么？", {"为什么", "为什么？？", "为什么？？？"}),
        (add_particle, "好看", {"好看啊", "好看呀", "好看啦", "好看哦"}),
        (add_particle, "awsl", {"awsl"}),
    ],
)
def test_a_rule_keeps_the_meaning(rule: object, text: str, possible: set[str]) -> None:
    rng = np.random.default_rng(0)
    written = {rule(text, rng) for _ in range(DRAWS)}  # type: ignore[operator]
    assert written <= possible | {text} and written & possible


def test_a_variant_differs_and_depends_only_on_the_generator() -> None:
    variants = Variants.of_vocabulary(["好", "看", "!"])
    once, again = (
        [variants.write_otherwise("好看", np.random.default_rng(seed)) for seed in range(DRAWS)] for _ in range(2)
    )
    assert once == again and "好看" not in once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我不喜欢", "我喜欢"),
        ("好看", "不好看"),
        ("好听", "难听"),
        ("没有人", "有人"),
        ("开播了", "下播了"),
        ("太大了", "太小了"),
        ("我能吃", "我不能吃"),
    ],
)
def test_an_opposite_negates_or_exchanges_one_word(text: str, expected: str) -> None:
    assert expected in opposites(text)
    assert opposite(text, np.random.default_rng(0)) in opposites(text)


@pytest.mark.parametrize("text", ["不错", "特别的人", "对不起", "大家", "上海", "哈哈哈", "好看吗", "666"])
def test_a_text_without_an_opposite_has_none(text: str) -> None:
    assert opposites(text) == []
    assert opposite(text, np.random.default_rng(0)) is None
