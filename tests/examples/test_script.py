"""What is replied, told from how the lines of a script relate to what is said."""

from __future__ import annotations

from danmaku_client import SimilarMatch

from examples.bot.script import Reply, Script


def match(place: int, relation: str) -> SimilarMatch:
    return SimilarMatch(str(place), "", 0.9, {}, relation=relation)


def test_a_line_that_says_the_same_is_answered_and_a_nearer_one_that_does_not_is_not() -> None:
    script = Script([("晚上好", "晚上好呀"), ("再来一首", "好的")])
    reply = script.reply("再唱一首", 10, [match(0, "related"), match(1, "same")])

    assert reply == Reply("再唱一首", "好的")
    assert script.reply("不要再来一首了", 100, [match(1, "related")]) is None
    assert script.reply("再来一首", 39, [match(1, "same")]) is None  # just said
    assert script.reply("晚上好", 39, [match(0, "same")]) is not None
    assert script.reply("再来一首", 40, [match(1, "same")]) is not None


def test_a_bot_without_a_script_is_silent() -> None:
    assert Script([]).reply("草", 1, []) is None
