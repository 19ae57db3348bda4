"""Makes opposites of danmaku by rule: adds or removes a negation, or replaces one word by its antonym.

Opposites are written in the same moments and share most of their characters, so neither moments nor spelling separate
them. These pairs are made from danmaku that viewers wrote; a spelling variant must be nearer than the opposite.

Left out: irony, and negations that need a sentence's grammar. A text to which no rule applies has no opposite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

ANTONYMS = (
    "大 小|多 少|高 低|高 矮|长 短|快 慢|早 晚|新 旧|好 坏|好 差|美 丑|胖 瘦|冷 热|强 弱|"
    "强 菜|轻 重|远 近|深 浅|贵 便宜|便宜 昂贵|香 臭|甜 苦|硬 软|开 关|来 走|来 去|进 出|"
    "上 下|左 右|前 后|买 卖|赢 输|胜 败|胜利 失败|成功 失败|生 死|活 死|哭 笑|爱 恨|"
    "喜欢 讨厌|喜欢 厌恶|支持 反对|同意 反对|开心 难过|开心 伤心|高兴 难过|高兴 生气|快乐 痛苦|"
    "幸福 不幸|好看 难看|好听 难听|好吃 难吃|好喝 难喝|好闻 难闻|好用 难用|好玩 无聊|有趣 无聊|"
    "好笑 不好笑|漂亮 丑|可爱 可恶|聪明 笨|聪明 傻|厉害 菜|简单 难|简单 复杂|容易 困难|安全 危险|"
    "干净 脏|安静 吵|热闹 冷清|真 假|对 错|正确 错误|是 不是|有 没有|有 没|会 不会|能 不能|"
    "要 不要|可以 不可以|行 不行|愿意 不愿意|知道 不知道|懂 不懂|相信 怀疑|记得 忘了|舒服 难受|"
    "满意 失望|希望 绝望|推荐 不推荐|值得 不值|划算 不划算|开始 结束|开播 下播|上线 下线|打开 关闭|"
    "增加 减少|上升 下降|提高 降低|前进 后退|出现 消失|安装 卸载|登录 退出|借 还|起床 睡觉|"
    "早安 晚安|白天 晚上|男 女|哥哥 姐姐|弟弟 妹妹|爸爸 妈妈|老公 老婆|黑 白|老 年轻|有钱 没钱|"
    "有用 没用|有意思 没意思|有人 没人|关注 取关|粉丝 黑粉|表扬 批评|夸 骂|保护 伤害|欢迎 不欢迎|"
    "顺利 倒霉|幸运 倒霉|勇敢 胆小|勤劳 懒|认真 敷衍|温柔 凶|善良 恶毒|好人 坏人|真实 虚假|"
    "清楚 模糊|完美 糟糕|精彩 无聊|太棒 太差"
)
NEGATABLE = (
    "好看|好听|好吃|好玩|好用|好笑|好|可爱|喜欢|想|会|能|要|可以|是|对|行|懂|知道|爱|怕|信|愿意|同意|支持|推荐|满意|"
    "舒服|方便|便宜|贵|值|难|开心|高兴|漂亮|认识|记得|明白|相信|在乎|需要|应该|敢|错|吃|看|玩|买|去|来|说|用|做|听|打"
)
# Where 不, 没 or 别 is part of a word, removing it does not make an opposite.
FIXED = re.compile(
    "不过|不错|不仅|不但|不管|不论|不如|不愧|不禁|不得不|不好意思|不客气|不是吧|不会吧|不行了|不得了|不一会|不知不觉|差不多|"
    "对不起|了不起|忍不住|要不|好不|是不是|有没有|能不能|会不会|要不要|行不行|可不可|好不好|对不对|不对劲|不同|不断|不少|不久|"
    "不安|不幸|不同|不三不四|没事|没错|没收|埋没|淹没|沉没|没准|别人|别的|特别|别墅|性别|区别|分别|告别|个别|级别|鉴别|识别|别扭|"
    "永不|无不|莫不|不时|不然|不料|不止|不只|不由|不免|绝不|决不|从不|不妨|不必|不曾|不愧"
)
NEGATION = re.compile("没有|不要|不是|不会|不能|不想|不用|不|没|别")
UNSURE = re.compile("吗|么|？|\\?|呢$|吧$")  # a question has no opposite
LONGEST = 20  # characters

_EXCHANGE: dict[str, list[str]] = {}
for _pair in ANTONYMS.split("|"):
    _one, _other = _pair.split(" ")
    _EXCHANGE.setdefault(_one, []).append(_other)
    _EXCHANGE.setdefault(_other, []).append(_one)
_ANTONYM = re.compile("|".join(sorted(_EXCHANGE, key=len, reverse=True)))
_NEGATABLE = re.compile("|".join(sorted(NEGATABLE.split("|"), key=len, reverse=True)))
# A single character is a word only beside a few others: 大 in 大 or 好大, not in 大家.
_BEFORE_WORD = "太好真很更最越都挺超不这那有多么"
_AFTER_WORD = "了啊呀的吧哦！!~。，,"


def opposites(text: str) -> list[str]:
    """Returns every opposite that a rule makes, in a fixed order; none for a question or a long text."""
    if len(text) > LONGEST or UNSURE.search(text):
        return []
    return list(dict.fromkeys([*_without_negation(text), *_with_negation(text), *_with_antonym(text)]))


def opposite(text: str, rng: np.random.Generator) -> str | None:
    """Returns a random opposite, or None."""
    found = opposites(text)
    return found[rng.integers(len(found))] if found else None


def _without_negation(text: str) -> Iterator[str]:
    fixed = [range(match.start(), match.end()) for match in FIXED.finditer(text)]
    for match in NEGATION.finditer(text):
        if any(match.start() in places for places in fixed):
            continue
        kept = {"没有": "有", "不要": "要", "不是": "是", "不会": "会", "不能": "能", "不想": "想", "不用": "要"}
        without = text[: match.start()] + kept.get(match[0], "") + text[match.end() :]
        if without:
            yield without


def _with_negation(text: str) -> Iterator[str]:
    if NEGATION.search(text):
        return
    for match in _NEGATABLE.finditer(text):
        before, after = text[: match.start()], text[match.start() :]
        is_verb_alone = len(match[0]) == 1 and before and before[-1] not in _BEFORE_WORD + "我你他她就还也"
        if not is_verb_alone:
            yield f"{before}不{after}"
            return


def _with_antonym(text: str) -> Iterator[str]:
    for match in _ANTONYM.finditer(text):
        word, before, after = match[0], text[: match.start()], text[match.end() :]
        if len(word) == 1 and not (
            (not before or before[-1] in _BEFORE_WORD) and (not after or after[0] in _AFTER_WORD)
        ):
            continue
        if before.endswith(("不", "没")):
            continue
        for other in _EXCHANGE[word]:
            yield before + other + after
