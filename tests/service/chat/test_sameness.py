"""Whether two danmaku say the same: foldings, sounds, and what speaks against it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from service.chat.polarity import find_conflict
from service.chat.sameness import WITHOUT_COSINE, Judge, Weights, open_judge
from service.chat.spelling import spell
from service.errors import ModelError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2333", "２３３３３３３"),
        ("哈哈哈", "哈哈哈哈哈哈"),
        ("hhh", "哈哈哈哈"),
        ("666", "6666666"),
        ("8888", "88888888888"),
        ("来了", "来了来了！！！"),
        ("開播了", "开播了"),
        ("AWSL", "awslawsl"),
        ("终 于", "终于……"),
        ("晚安", "晚安啊"),
        ("？？？", "?"),
    ],
)
def test_ways_of_writing_are_folded(one: str, other: str) -> None:
    assert spell(one).folded == spell(other).folded


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("100", "10"),
        ("晚安", "早安"),
        ("哈弟来了", "来了"),
        ("how", "哈"),
        ("aqua", "aqu"),
        ("呵呵", "哈哈"),
        ("?", "!"),
        ("233", "32"),
    ],
)
def test_what_is_said_is_not_folded(one: str, other: str) -> None:
    assert spell(one).folded != spell(other).folded


@pytest.mark.parametrize(
    ("one", "other"), [("溜了", "我可溜了"), ("往上推", "往上推就行了"), ("打乱", "打乱了"), ("真的太可爱", "可爱")]
)
def test_function_words_are_not_content(one: str, other: str) -> None:
    assert spell(one).content == spell(other).content


@pytest.mark.parametrize(("one", "other"), [("我的", "你的"), ("是", "就"), ("阿夸", "阿律")])
def test_what_has_function_words_alone_keeps_them(one: str, other: str) -> None:
    assert spell(one).content != spell(other).content


@pytest.mark.parametrize(("one", "other"), [("雀食", "确实"), ("蟹蟹", "谢谢"), ("针不戳", "真不错")])
def test_typing_by_ear_sounds_the_same(one: str, other: str) -> None:
    assert spell(one).sounds == spell(other).sounds


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        ("有声音", "没声音", "negation"),
        ("想看", "不想看", "negation"),
        ("不要再来一首了", "再来一首", "negation"),
        ("声音太大了", "声音太小了", "antonym"),
        ("早上好", "晚上好", "antonym"),
        ("下播了", "终于开播了", "antonym"),
        ("左边", "右边", "antonym"),
        ("99级", "100级", "number"),
        ("第一", "第二", "number"),
        ("我赢了", "你赢了", "person"),
        ("你爱我", "我爱你", "person"),
        ("好听", "好听吗", "question"),
        ("开播了", "是不是开播了", "question"),
    ],
)
def test_what_speaks_against_it_is_found_in_both_directions(one: str, other: str, conflict: str) -> None:
    assert find_conflict(spell(one), spell(other)) == find_conflict(spell(other), spell(one)) == conflict


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("不错", "真不错"),
        ("从没玩过", "从来没玩过"),
        ("没有声音", "没声音"),
        ("666", "66666666"),
        ("2333", "23333333"),
        ("爱你", "我爱你"),
        ("特别好听", "好听"),
        ("别走", "不要走"),
    ],
)
def test_what_agrees_is_no_conflict(one: str, other: str) -> None:
    assert find_conflict(spell(one), spell(other)) is None


@pytest.fixture(params=["characters", "bundled"])
def judge(request: pytest.FixtureRequest) -> Judge:
    return open_judge(None if request.param == "characters" else Path("models/danmaku-bert-mini"))


def test_opposites_are_related_however_near_their_vectors_are(judge: Judge) -> None:
    for one, other in [("有声音", "没声音"), ("声音太大了", "声音太小了"), ("早上好", "晚上好"), ("左边", "右边")]:
        judgement = judge.judge(one, other, 0.97)

        assert (judgement.relation, judgement.reason) in (("related", "negation"), ("related", "antonym"))


def test_spellings_are_the_same_also_without_vectors(judge: Judge) -> None:
    for one, other in [("2333", "233333333"), ("开播了", "開播了！！"), ("雀食", "确实"), ("来了", "来了来了")]:
        assert judge.judge(one, other, math.nan if not judge.uses_cosine else 0.9).relation == "same"
    assert judge.judge("草", "草", math.nan).probability == 1


def test_a_judgement_is_the_same_in_both_directions(judge: Judge) -> None:
    for one, other in [("好听", "好好听"), ("晚安", "主播晚安"), ("这歌好听", "这首歌真好听"), ("开播", "吃饭")]:
        assert judge.judge(one, other, 0.8) == judge.judge(other, one, 0.8)


def test_a_nearer_vector_never_speaks_against_it() -> None:
    judge = open_judge(Path("models/danmaku-bert-mini"))
    probabilities = [judge.judge("这首歌好听", "这歌不难听呀", cosine / 10).probability for cosine in range(4, 11)]

    assert probabilities == sorted(probabilities) and probabilities[0] < probabilities[-1]


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "sameness.json").write_text('{"same": {}}')

    with pytest.raises(ModelError, match=r"sameness\.json cannot be used.*danmaku-train sameness"):
        open_judge(tmp_path)


def test_a_relation_needs_its_own_probability() -> None:
    """The thresholds are the weights' own."""
    zeros = dict.fromkeys((*WITHOUT_COSINE, "bias"), 0.0)

    def relation(same_at: float, related_at: float) -> str:
        return Judge(Weights(zeros, zeros, same_at, related_at), uses_cosine=False).judge("草", "晚安", 0.5).relation

    assert (relation(0.5, 0.5), relation(0.6, 0.5), relation(0.6, 0.6)) == ("same", "related", "unrelated")
