"""Merging: groups of what says the same within a window, the same whatever the order of equal times."""

from __future__ import annotations

import random

import numpy as np
import pytest

from service.chat.merging import Group, Line, Merger, merge
from service.chat.sameness import Judge, open_judge


@pytest.fixture(scope="module")
def judge() -> Judge:
    return open_judge(None)


def vectors_of(lines: list[Line]) -> np.ndarray:
    """One vector for all, so that it never keeps lines apart."""
    return np.tile(np.array([1, 0, 0, 0], np.float32), (len(lines), 1))


def merged(judge: Judge, *lines: tuple[float, str], **options: object) -> list[tuple[str, int, list[str]]]:
    given = [Line(text, time, str(index)) for index, (time, text) in enumerate(lines)]
    return [(group.text, group.count, group.ids) for group in merge(given, vectors_of(given), judge, **options)]  # type: ignore[arg-type]


def test_spellings_are_counted_under_the_commonest(judge: Judge) -> None:
    lines = [(0.0, "来了！"), (1, "来了"), (2, "来了来了"), (3, "来了"), (4, "没来")]

    assert merged(judge, *lines) == [("来了", 4, ["0", "1", "2", "3"]), ("没来", 1, ["4"])]


def test_opposites_stay_apart(judge: Judge) -> None:
    lines = [
        (0.0, "声音太大了"),
        (1, "声音太小了"),
        (2, "不要再来一首了"),
        (3, "再来一首"),
        (4, "早上好"),
        (5, "晚上好"),
    ]

    assert [count for _, count, _ in merged(judge, *lines)] == [1] * 6


def test_a_group_spans_at_most_its_window(judge: Judge) -> None:
    lines = [(time, "草") for time in (0.0, 15, 20, 20.5, 40)]

    assert [ids for *_, ids in merged(judge, *lines, window_s=20.0)] == [["0", "1", "2"], ["3", "4"]]


@pytest.mark.parametrize(("rule", "counts"), [("identical", [2, 1, 1]), ("spelling", [3, 1]), ("meaning", [3, 1])])
def test_rules_can_be_stricter(judge: Judge, rule: str, counts: list[int]) -> None:
    assert [
        count for _, count, _ in merged(judge, (0, "草"), (1, "草"), (2, "草草草"), (3, "晚安"), rule=rule)
    ] == counts


def test_nothing_but_equal_texts_reaches_an_impossible_threshold(judge: Judge) -> None:
    assert [count for _, count, _ in merged(judge, (0, "草"), (1, "草"), (2, "晚安吗"), threshold=1.0)] == [2, 1]


def test_shuffled_lines_give_the_same_groups_and_lose_none(judge: Judge) -> None:
    rng = random.Random(5)
    words = ["草", "草草草", "晚安", "主播晚安", "来了", "没来", "666", "66666", "", "？？？", "好听", "好好听", "233"]
    lines = [Line(rng.choice(words), float(rng.randrange(60)), str(index)) for index in range(400)]
    groups = merge(lines, vectors_of(lines), judge, window_s=10)
    for _ in range(3):
        rng.shuffle(lines)
        assert merge(lines, vectors_of(lines), judge, window_s=10) == groups

    assert sorted(id for group in groups for id in group.ids) == sorted(line.id for line in lines)
    assert all(group.count == len(group.ids) and group.last - group.first <= 10 for group in groups)


def test_a_line_without_a_vector_is_merged_by_its_spelling(judge: Judge) -> None:
    lines = [Line("？？？", 0, "a"), Line("?", 1, "b"), Line("晚安", 2, "c")]
    groups = merge(lines, np.full((3, 4), np.nan, np.float32), judge)

    assert [group.ids for group in groups] == [["a", "b"], ["c"]]


def test_a_stream_closes_groups_when_their_window_is_over(judge: Judge) -> None:
    merger = Merger(judge, 4, window_s=10)

    def add(*lines: Line) -> list[Group]:
        return list(merger.add(lines, vectors_of(list(lines))))

    assert add(Line("草", 0, "a"), Line("草草", 5, "b")) == []
    assert add(Line("晚安", 11, "c"), Line("晚安", 12, "d")) == [Group("草", 2, 0, 5, ["a", "b"])]
    assert list(merger.finish()) == [Group("晚安", 2, 11, 12, ["c", "d"])]


def test_a_stream_holds_the_lines_of_one_window(judge: Judge) -> None:
    merger = Merger(judge, 4, window_s=1)
    for number in range(2000):
        line = Line(f"第{number}句{number * 7919}", float(number), str(number))
        list(merger.add([line], np.eye(4, dtype=np.float32)[[number % 4]]))

    assert len(merger._groups) <= 3 and len(merger._vectors) <= 128 and len(merger._alike) <= 6


@pytest.mark.parametrize(("time", "message"), [(3.0, "invalid time: 3 after 5"), (float("nan"), "invalid time: nan")])
def test_a_stream_refuses_times_out_of_order(judge: Judge, time: float, message: str) -> None:
    merger = Merger(judge, 4)
    list(merger.add([Line("草", 5, "a")], vectors_of([Line("草", 5, "a")])))

    with pytest.raises(ValueError, match=message):
        list(merger.add([Line("草", time, "b")], vectors_of([Line("草", 5, "a")])))
    assert [group.count for group in merger.finish()] == [1]
