"""Topics: an identity that lasts, spellings merged, opposites in one topic, and memory that does not grow."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from processes import ROOT, serving

from service.chat.sameness import Judge, open_judge
from service.chat.topics import MAX_LINES, MAX_ROOMS, MAX_TOPICS, Rooms, Topics

NONE = np.full(8, np.nan, np.float32)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return open_judge(ROOT / "models/danmaku-bert-mini")


@pytest.fixture
def topics(judge: Judge) -> Topics:
    return Topics(judge, 8, "f")


def vector(number: int) -> np.ndarray:
    return np.eye(8, dtype=np.float32)[number]


def test_spellings_are_one_topic_that_keeps_its_id(topics: Topics) -> None:
    first, _ = topics.add("来了", 0, vector(0))
    others = {topics.add(text, time, vector(0)) for time, text in enumerate(["来了！！", "来了来了", "来了！！"], 1)}
    (topic,) = topics.list()

    assert others == {(first, 2), (first, 3), (first, 4)}
    assert (topic.id, topic.text, topic.count) == (first, "来了！！", 4)
    assert topic.said == [("来了！！", 4)]


def test_a_topic_that_was_silent_comes_back_under_its_id(topics: Topics) -> None:
    first, _ = topics.add("来了", 0, vector(0))
    topics.add("晚安", 300, vector(1))

    assert topics.list() == []
    assert topics.add("来了来了", 301, vector(0)) == (first, 1)


def test_what_rises_is_said_more_often_than_before(topics: Topics) -> None:
    for second in range(60):
        topics.add("草", second, vector(0))
    for tenth in range(500, 600):
        topics.add("晚安", 60 + tenth / 100, vector(1))
    rise = {topic.text: topic.rise for topic in topics.list()}

    assert rise["晚安"] > 10 and rise["草"] < 1
    assert all(len(topic.curve) == 12 and sum(topic.curve) == topic.count for topic in topics.list())


def test_opposites_are_one_topic_and_strangers_two(topics: Topics) -> None:
    loud, _ = topics.add("声音太大了", 0, vector(0))
    quiet, _ = topics.add("声音太小了", 1, vector(0))
    other, _ = topics.add("晚安", 2, vector(1))

    assert loud == quiet != other


def test_what_is_said_last_is_merged_and_opposites_are_not(topics: Topics) -> None:
    for time, text in enumerate(["声音太大了", "声音太小了", "声音太小了！！", "晚安", "声音太大了"]):
        topics.add(text, time, vector(1 if text == "晚安" else 0))
    (topic,) = topics.list()

    assert [(each.text, each.count) for each in topics.latest()] == [("声音太大了", 2), ("晚安", 1), ("声音太小了", 2)]
    assert topic.said == [("声音太大了", 2), ("声音太小了", 2)]


def test_memory_is_bounded(topics: Topics) -> None:
    rng = random.Random(4)
    for number in range(3 * MAX_TOPICS):
        word = "".join(rng.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏", k=9))
        topics.add(word, number / 100, vector(rng.randrange(8)))
    for number in range(MAX_LINES + 100):
        topics.add("草", 100 + number / 10_000, NONE)

    assert len(topics._topics) <= MAX_TOPICS and len(topics._vectors) == MAX_TOPICS
    assert len(topics._lines) <= MAX_LINES + 1
    assert len(topics._topic_of) <= MAX_TOPICS + MAX_LINES
    assert topics.list()[0].text == "草"


def test_a_clock_that_goes_back_is_held(topics: Topics) -> None:
    topics.add("草", 100, vector(0))
    topics.add("草", 50, vector(0))

    assert topics.now == 100 and topics.list()[0].count == 2


@pytest.mark.parametrize("last", [1e12, 161.0])
def test_a_time_far_in_the_future_harms_one_moment_only(topics: Topics, last: float) -> None:
    """So does the end of a stream, after which the next one, or a replay of it, begins again."""
    first, _ = topics.add("草", last, vector(0))
    second, count = topics.add("草", 100, vector(0))

    assert (topics.now, count) == (100, 1) and second != first
    assert topics.add("草", 101, vector(0)) == (second, 2)


def test_rooms_are_bounded_and_forget_another_model(judge: Judge) -> None:
    rooms = Rooms()
    first = rooms.open("a", judge, 8, "f")

    assert rooms.open("a", judge, 8, "f") is first
    assert rooms.open("a", judge, 8, "g") is not first
    for number in range(MAX_ROOMS):
        rooms.open(f"room{number}", judge, 8, "f")
    assert rooms.find("a") is None


@contextmanager
def room(tiny_model: Path, folder: Path) -> Iterator[httpx.Client]:
    with serving("--collections", f"sqlite://{folder}/collections", model=f"onnx://{tiny_model}") as (http, _):
        http.put("/collections/room").raise_for_status()
        yield http


def test_lines_are_observed_stored_and_told(tiny_model: Path, tmp_path: Path) -> None:
    with room(tiny_model, tmp_path) as http:
        lines = ["晚安", {"text": "晚安！", "metadata": {"room": 3}, "ttl_s": 60}, "", {"text": "草", "times": 1}]
        first = http.post("/collections/room/observe", json=lines).json()
        second = http.post("/collections/room/observe", json=["晚安晚安"]).json()
        told = http.get("/collections/room/topics").json()

        assert [result and result["topic"]["count"] for result in first["results"]] == [1, 2, None, None]
        assert first["results"][0]["nearest"] is None
        assert first["added"] == 2
        assert [(error["index"], error["error_type"]) for error in first["errors"]] == [
            (2, "empty_text"),
            (3, "invalid_request"),
        ]
        (result,) = second["results"]
        assert result["nearest"]["text"] in ("晚安", "晚安！") and result["nearest"]["relation"] == "same"
        assert result["topic"] == {"id": first["results"][0]["topic"]["id"], "count": 3}
        assert [(topic["id"], topic["count"]) for topic in told["topics"]] == [(result["topic"]["id"], 3)]
        assert http.get("/collections/room/danmaku").json()["danmaku"][0]["text"].startswith("晚安")
        assert http.get("/collections/none/topics").status_code == 404
        assert http.post("/collections/none/observe", json=["草"]).status_code == 404
        timed = [{"text": "草", "time": "1.5"}, {"text": "草", "time": True}, {"text": "草", "time": 1}, " "]
        answer = http.post("/collections/room/observe", json=timed)
        assert answer.status_code == 200
        assert [error["index"] for error in answer.json()["errors"]] == [0, 1, 3]
        assert "time" in answer.json()["errors"][0]["error"]
        assert "invalid body" in http.post("/collections/room/observe", json={}).json()["error"]


def test_a_listener_hears_of_every_change(tiny_model: Path, tmp_path: Path) -> None:
    with room(tiny_model, tmp_path) as http:
        headers = {"accept": "text/event-stream"}
        with http.stream("GET", "/collections/room/topics", headers=headers, timeout=20) as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            told = (json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: "))
            assert next(told)["topics"] == []
            httpx.post(f"{http.base_url}/collections/room/observe", json=["草", "草草"], timeout=20).raise_for_status()
            assert next(told)["topics"][0]["count"] == 2
        metrics = http.get("/metrics").text
        assert 'danmaku_requests_total{outcome="ok",route="/collections/{name}/observe"} 1.0' in metrics
