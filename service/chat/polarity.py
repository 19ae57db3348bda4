"""Finds evidence that two danmaku do not mean the same, although most of their characters agree.

    有声音 – 没声音 negation    声音太大了 – 声音太小了 antonym    往左 – 往右 antonym    99级 – 100级 number
    我赢了 – 你赢了 person      好听 – 好听吗 question

Vectors do not show this: statements about one thing have similar vectors, whatever they claim.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from service.chat.spelling import SPELLINGS, Spelling

Conflict = Literal["negation", "antonym", "number", "person", "question"]

# Negators within these words negate nothing. `A不A` is a question.
NOT_NEGATION = re.compile(
    r"(.)[不没](?:有)?\1|不错|不过|不愧|不得不|不仅|不管|不断|不如|不然|不论|差不多|了不起|对不起|不好意思|要不|"
    r"不就(?:是|行|得|完)|没错|没毛病|没事|没问题|别人|特别|区别|分别|性别|级别|别墅|离别|道别|告别|识别|个别|"
    r"非常|非得|非要|无敌|无聊|无限|无语|无双|无脑|无疑|不~"
)
NEGATORS = re.compile(r"没有|木有|不是|[不没别未勿莫无冇]|(?<![a-z])(?:no|not|never)(?![a-z])")
QUESTION = re.compile(r"[吗嘛]|么(?=[?？!！啊 ]*$)(?<!什么)(?<!怎么)(?<!这么)(?<!那么)|(.)[不没](?:有)?\1|有没有|是否")
DIGITS = re.compile(r"\d+(?:\.\d+)?")
NOT_A_NUMBER = re.compile(r"2?3{2,}|6{2,}|8{3,}|(\d)\1{2,}")
CHINESE_DIGITS = str.maketrans("零一二两三四五六七八九", "01223456789")
ORDINAL = re.compile(r"(?<=第)[一二三四五六七八九]|[二两三四五六七八九](?=[分级点次个岁局楼层天年月号倍场遍只把人星])")
PEOPLE = re.compile(r"[我你您他她它]们?|主播|自己")
# Each is a group of mutually exclusive words.
GROUPS = """
大/小 多/少 高/低 高/矮 快/慢 早/晚 早/迟 开/关 开/下 来/走 来/去 上/下 左/右 前/后 里/外 内/外 进/出 进/退 前进/后退
赢/输 胜/负 胜/败 成功/失败 有/没 有/无 好/坏 好/差 好/烂 对/错 真/假 新/旧 新/老 男/女 公/母 攻/受 正/反 顺/逆
长/短 远/近 深/浅 轻/重 强/弱 硬/软 厚/薄 粗/细 宽/窄 胖/瘦 冷/热 凉/热 干/湿 黑/白 红/蓝/绿/黄 亮/暗
甜/咸/酸/苦/辣 香/臭 美/丑 贵/便宜 难/简单 难/容易 易/难 安全/危险 聪明/笨 聪明/傻 勤/懒 富/穷 忙/闲
哭/笑 喜欢/讨厌 爱/恨 支持/反对 同意/反对 同意/拒绝 接受/拒绝 开心/难过 高兴/难过 快乐/难过 开心/伤心 高兴/生气
买/卖 借/还 加/减 增/减 涨/跌 升/降 涨/降 升/跌 增/降 加/扣 生/死 活/死 活/挂 醒/睡 站/坐 推/拉 抓/放 得/失
开始/结束 开播/下播 上播/下播 开播/关播 首/尾 先/后 第一/最后 上线/下线 上班/下班 上车/下车 上学/放学 关注/取关
起床/睡觉 欢迎/再见 你好/再见 早安/晚安 早上/晚上/中午/下午 白天/晚上 早/午 今天/昨天/明天 今晚/明晚/昨晚
春/夏/秋/冬 东/南/西/北 爸/妈 哥/姐 哥/弟 姐/妹 儿/女 朋友/敌人 继续/停 留/走 快点/等等 静音/开声 满/空 满/零
可以/不行 行/不行 能/不能 热/冰 夸/骂 夸/喷 吹/黑 粉/黑 救/杀 同/异 一样/不同 欧/非 欧皇/非酋 咸/淡 浓/淡 单/双
看过/没看 记得/忘 全/半 合/分 聚/散 增加/减少 打开/关闭 变强/变弱 调大/调小 老公/老婆 天使/恶魔 天才/白痴 高能/低能
清楚/模糊 卡/流畅 流畅/卡 稳/浪 稳/慌 准/歪 急/慢 早/晚上
"""
EXCLUDED: dict[str, set[str]] = {}  # by a word: the words that exclude it
for _words in (set(group.split("/")) for group in GROUPS.split()):
    for _word in _words:
        EXCLUDED.setdefault(_word, set()).update(_words - {_word})


@dataclass(frozen=True, slots=True)
class Stance:
    """The stance of a danmaku towards what it says."""

    is_negated: bool
    is_question: bool
    numbers: tuple[str, ...]
    people: tuple[str, ...]
    antonyms: frozenset[str]  # its words that have excluding words


def find_conflict(first: Spelling, second: Spelling) -> Conflict | None:
    """Returns the first kind of conflict between two danmaku, or None."""
    one, other = take_stance(first.text), take_stance(second.text)
    if one.is_negated != other.is_negated and one.is_question == other.is_question:
        return "negation"
    if excludes(one.antonyms, other.antonyms):
        return "antonym"
    if one.numbers != other.numbers and one.numbers and other.numbers:
        return "number"
    if one.people and other.people and not (_within(one.people, other.people) or _within(other.people, one.people)):
        return "person"
    return "question" if one.is_question != other.is_question else None


@lru_cache(SPELLINGS)
def take_stance(text: str) -> Stance:
    negations = len(NEGATORS.findall(NOT_NEGATION.sub(" ", text)))
    numbers = [number for number in DIGITS.findall(text) if not NOT_A_NUMBER.fullmatch(number)]
    numbers += [number.translate(CHINESE_DIGITS) for number in ORDINAL.findall(text)]
    antonyms = frozenset(word for word in EXCLUDED if word in text)
    is_question = bool(QUESTION.search(text))
    return Stance(negations % 2 == 1, is_question, tuple(numbers), tuple(PEOPLE.findall(text)), antonyms)


def excludes(first: frozenset[str], second: frozenset[str]) -> bool:
    """Returns whether a word of one is replaced in the other by a word that excludes it."""
    if first == second:
        return False
    only_second = second - first
    return any(not EXCLUDED[word].isdisjoint(only_second) for word in first - second)


def _within(few: tuple[str, ...], many: tuple[str, ...]) -> bool:
    """Returns whether `few` is a subsequence of `many`."""
    rest = iter(many)
    return all(person in rest for person in few)
