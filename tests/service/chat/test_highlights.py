"""Highlights: what viewers say more than usual, but not what every stream says, and not what one of them pastes."""

from __future__ import annotations

import random

import httpx
import numpy as np
import pytest

from service.chat.highlights import Highlights, Kinds, find_highlights
from service.chat.merging import Line
from service.chat.sameness import Judge, open_judge
from service.errors import TooLarge

MEANINGS = ("chat", "laughter", "greeting", "farewell", "thanks", "paste")
HOUR_S = 3600


@pytest.fixture(scope="module")
def judge() -> Judge:
    return open_judge(None)


class Stream:
    """An hour in which every second somebody says something different."""

    def __init__(self) -> None:
        self.rng = random.Random(3)
        self.lines: list[Line] = []
        self.meanings: list[int] = []
        for second in range(HOUR_S):
            self.say("chat", second, "".join(self.rng.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张", k=5)))

    def say(self, meaning: str, second: float, text: str) -> None:
        self.lines.append(Line(text, float(second), str(len(self.lines))))
        self.meanings.append(MEANINGS.index(meaning))

    def flood(self, meaning: str, start: float, end: float, count: int, *texts: str) -> None:
        for _ in range(count):
            self.say(meaning, self.rng.uniform(start, end), self.rng.choice(texts))

    def find(self, judge: Judge, most: int = 3) -> Highlights:
        vectors = np.eye(8, dtype=np.float32)[self.meanings]
        kinds = Kinds(("laughter", "thanks"), np.eye(8, dtype=np.float32)[[1, 4]])
        return find_highlights(self.lines, vectors, judge, kinds, most=most)


def test_a_burst_is_found_with_what_it_is_about(judge: Judge) -> None:
    stream = Stream()
    stream.flood("laughter", 1800, 1812, 40, "哈哈哈", "哈哈哈哈哈", "草")
    found = stream.find(judge, most=1)
    (peak,) = found.peaks

    assert 1795 <= peak.at <= 1815 and peak.start < 1800 and 1808 < peak.end < 1840
    assert peak.kind == "laughter"
    assert {each.text for each in peak.representatives[:2]} <= {"哈哈哈", "哈哈哈哈哈", "草"}
    assert peak.lines >= 40 and len(peak.representatives) == 3
    assert len(found.curve) == len(found.density) == 1800
    assert found.curve.argmax() == pytest.approx(900, abs=5)


def test_greetings_and_farewells_are_no_highlights(judge: Judge) -> None:
    stream = Stream()
    stream.flood("greeting", 0, 60, 150, "晚上好", "来了", "主播好")
    stream.flood("farewell", HOUR_S - 60, HOUR_S, 150, "晚安", "拜拜")
    stream.flood("laughter", 1800, 1812, 25, "哈哈哈", "哈哈哈哈哈", "草")
    first, *others = stream.find(judge).peaks

    assert first.kind == "laughter"
    assert all(peak.score < first.score / 2 for peak in others)


def test_what_a_room_says_all_the_time_is_no_highlight(judge: Judge) -> None:
    stream = Stream()
    for minute in range(60):
        stream.flood("thanks", 60 * minute, 60 * minute + 60, 60, "感谢老板", "谢谢老板的礼物", "谢谢")
    stream.flood("thanks", 1000, 1060, 90, "感谢老板", "谢谢老板的礼物", "谢谢")
    stream.flood("laughter", 1800, 1812, 25, "哈哈哈", "哈哈哈哈哈", "草")

    assert stream.find(judge, most=1).peaks[0].kind == "laughter"


def test_copies_of_a_text_do_not_lift_a_peak(judge: Judge) -> None:
    stream = Stream()
    stream.flood("paste", 1000, 1012, 100, "关注主播不迷路主播带你上高速")
    stream.flood("laughter", 1800, 1812, 12, "哈哈", "哈哈哈", "哈哈哈哈", "草")

    assert stream.find(judge, most=1).peaks[0].kind == "laughter"


def test_the_order_of_lines_does_not_matter(judge: Judge) -> None:
    stream = Stream()
    stream.flood("laughter", 1800, 1812, 25, "哈哈哈", "哈哈哈哈哈", "草")
    vectors = np.random.default_rng(1).normal(size=(len(stream.lines), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kinds = Kinds(("laughter",), np.eye(8, dtype=np.float32)[[0]])
    once = find_highlights(stream.lines, vectors, judge, kinds)
    order = random.Random(1).sample(range(len(vectors)), len(vectors))
    again = find_highlights([stream.lines[index] for index in order], vectors[order], judge, kinds)

    assert again.peaks == once.peaks
    assert np.array_equal(again.curve, once.curve)


@pytest.mark.parametrize("lines", [[], [Line("草", 5.0, "a")], [Line("草", -3.0, "a"), Line("☃", 2.0, "b")]])
def test_few_lines_are_no_error(judge: Judge, lines: list[Line]) -> None:
    found = find_highlights(lines, np.full((len(lines), 4), np.nan, np.float32), judge, Kinds((), np.zeros((0, 4))))

    assert len(found.peaks) <= 1


def test_a_recording_of_years_is_refused(judge: Judge) -> None:
    lines = [Line("草", 0.0, "a"), Line("草", 1e9, "b")]

    with pytest.raises(TooLarge, match="expected at most 172800 s"):
        find_highlights(lines, np.eye(4, dtype=np.float32)[:2], judge, Kinds((), np.zeros((0, 4))))


async def test_the_route_answers_curves_and_peaks(client: httpx.AsyncClient) -> None:
    lines = [{"text": "晚安", "time": float(second)} for second in range(0, 600, 20)]
    lines += [
        {"text": text, "time": 300.0 + index} for index, text in enumerate(["哈哈", "哈哈哈", "草", "哈哈哈哈"] * 3)
    ]
    answer = await client.post("/highlights", json={"lines": lines, "count": 1})
    body = answer.json()

    assert answer.status_code == 200, body
    assert body["model"] == "tiny" and body["step_s"] == 2
    assert len(body["curve"]) == len(body["density"]) == 291
    (peak,) = body["peaks"]
    assert 280 < peak["at"] < 330 and peak["start"] <= peak["at"] <= peak["end"]
    assert set(peak) == {"start", "end", "at", "score", "lines", "kind", "representatives"}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"lines": [{"text": "草"}]}, 422, "invalid lines.0.time"),
        ({"lines": [], "count": 0}, 422, "invalid count"),
        ({"lines": [{"text": "草", "time": 0}, {"text": "草", "time": 1e12}]}, 413, "too long"),
    ],
)
async def test_what_is_invalid_is_named(client: httpx.AsyncClient, body: object, status: int, message: str) -> None:
    answer = await client.post("/highlights", json=body)

    assert answer.status_code == status
    assert message in answer.json()["error"]
