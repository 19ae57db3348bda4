"""What the chat is about, and what is replied, told from vectors made for the purpose."""

from __future__ import annotations

import numpy as np
from danmaku_client import SimilarMatch

from examples.bot.chat import Chat, Reply, Script

COMMON = np.array([3.0, 0, 0, 0])  # what all lines have in common
ABOUT = {name: np.eye(4)[place] for place, name in enumerate(("game", "song", "voice"), 1)}


def vector(about: str, aside: float = 0.0) -> np.ndarray:
    whole = COMMON + ABOUT[about] + aside * np.array([0, 0.2, -0.1, 0.1])
    return whole / np.linalg.norm(whole)


def said(*lines: tuple[float, str, str]) -> Chat:
    chat = Chat(dim=4)
    for place, (at_s, text, about) in enumerate(lines):
        chat.add(text, at_s, vector(about, aside=place % 3))
    return chat


def test_a_topic_is_what_several_lines_are_about() -> None:
    """Its representative is what was said most; a line that stands alone is no topic."""
    chat = said(
        (1, "又死了", "game"),
        (2, "好听", "song"),
        (3, "太难了", "game"),
        (4, "又死了", "game"),
        (5, "再来一首", "song"),
        (6, "听不见", "voice"),
    )
    topics = chat.topics(7)

    assert [(topic.representative, topic.lines, list(topic.others)) for topic in topics] == [
        ("又死了", 3, ["太难了"]),
        ("好听", 2, ["再来一首"]),
    ]


def test_now_is_the_last_minute() -> None:
    chat = said((0, "又死了", "game"), (1, "太难了", "game"), (50, "好听", "song"), (55, "再来一首", "song"))

    assert [topic.representative for topic in chat.topics(59)] == ["又死了", "好听"]
    assert [topic.representative for topic in chat.topics(100)] == ["好听"]
    assert (chat.lines(100), chat.topics(500), chat.lines(500)) == (2, [], 0)


def test_a_chat_of_one_wording_is_about_that() -> None:
    """All lines are the mean then, and nothing is left of them without it."""
    chat = said((1, "草", "game"))
    for at_s in range(2, 6):
        chat.add("草", at_s, vector("game"))

    assert [(topic.representative, topic.lines) for topic in chat.topics(6)] == [("草", 5)]


def match(place: int, relation: str) -> SimilarMatch:
    return SimilarMatch(str(place), "", 0.9, {}, relation=relation)


def test_a_line_that_says_the_same_is_answered_and_a_nearer_one_that_does_not_is_not() -> None:
    script = Script([("晚上好", "晚上好呀"), ("再来一首", "好的")])
    reply = script.reply("再唱一首", 10, [match(0, "related"), match(1, "same")])

    assert reply == Reply("再唱一首", "好的", 0.9)
    assert script.reply("不要再来一首了", 100, [match(1, "related")]) is None
    assert script.reply("再来一首", 39, [match(1, "same")]) is None  # just said
    assert script.reply("晚上好", 39, [match(0, "same")]) is not None
    assert script.reply("再来一首", 40, [match(1, "same")]) is not None


def test_a_bot_without_a_script_is_silent() -> None:
    assert Script([]).reply("草", 1, []) is None
