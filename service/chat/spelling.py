"""Normalises the spelling and the sound of danmaku, so that they can be compared.

    ２３３３３ → 哈    来了来了！！ → 来了    開播 → 开播    雀食 and 确实 → que si

Folds case, width, traditional characters, punctuation, repeats, and laughter, applause and praise of any length.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from opencc import OpenCC

os.environ.setdefault("PYPINYIN_NO_PHRASES", "true")  # 47,000 of them, for words; characters are read one by one here
from pypinyin import lazy_pinyin

MAX_CHARACTERS = 100  # of a text that are compared; a danmaku has at most 100, and the model reads fewer
SPELLINGS = 10_000  # kept, 3.5 KB each

NOT_WORDS = re.compile(r"[\W_]+")
REPEATS = re.compile(r"([^\d]{1,4}?)\1+")
LAUGHED = "\ue000"  # a private character that replaces laughter until it is known whether anything else is left
LAUGHTER = re.compile(
    r"(?:[哈嘻]{2,}|(?<![a-z])(?:h{2,}|w{2,}|lol)(?![a-z])|(?<!\d)(?:23{2,}|3{3,})(?!\d)|红红火火|恍恍惚惚|笑死我了|笑死)+"
)
APPLAUSE = re.compile(r"(?<!\d)8{3,}(?!\d)|啪{2,}")
PRAISE = re.compile(r"牛批|牛b|流批|溜批|(?<![a-z])nb(?![a-z])")
SAME_DIGIT = re.compile(r"(?<!\d)(\d)\1{2,}(?!\d)|(?<!\d)66(?!\d)")
# Particles at the end that change only the tone; 吗 and 嘛 ask.
PARTICLES = re.compile(r"[啊呀呢哦噢喔啦吧哇哎诶呐咯呗]+$")
DEGREES = re.compile(r"[太真好超很挺](?=\w)|实在是|非常|特别|有点")
# Function words: manner, person or time, but not the content.
FUNCTION_WORDS = re.compile(r"真的|就是|就行了|[的了着地得吗呢吧啊呀哦嘛啦么们我你您他她它这那是就也又都还可真太好很]")
# Sounds that phonetic typing mixes up: retroflex and dental initials, front and back nasal finals.
NEAR_SOUNDS = (("zh", "z"), ("ch", "c"), ("sh", "s"))


Bag = frozenset[str | tuple[str, int]]  # a multiset, in which the second 哈 is ("哈", 1)


@dataclass(frozen=True, slots=True, eq=False)
class Spelling:
    """The parts of a text that are compared."""

    text: str  # without differences of case, width and script
    folded: str
    content: str  # `folded` without function words, unless it has no others
    bag: Bag  # of the characters of `folded`
    bigrams: Bag
    sounds: str  # of `folded`, a syllable or character a word
    sound_bag: Bag


@lru_cache(SPELLINGS)
def spell(text: str) -> Spelling:
    plain = simplify(text[:MAX_CHARACTERS])
    folded = fold(plain)
    syllables = [sound(character) for character in folded]
    bigrams = map("".join, zip(folded, folded[1:], strict=False))
    content = FUNCTION_WORDS.sub("", folded) or folded
    return Spelling(plain, folded, content, _bag(folded), _bag(bigrams), " ".join(syllables), _bag(syllables))


def simplify(text: str) -> str:
    """Returns the text in lower case, normal width and simplified characters."""
    return "".join(map(_simplify_character, unicodedata.normalize("NFKC", text).lower()))


def fold(plain: str) -> str:
    """Folds marks, repeats and laughter of a simplified text; returns the first mark if there is only punctuation."""
    words = NOT_WORDS.sub("", plain)
    if not words:
        return plain.strip()[:1].replace("…", ".").replace("。", ".")
    words = APPLAUSE.sub("啪", LAUGHTER.sub(LAUGHED, PRAISE.sub("牛逼", words)))
    words = (words.strip(LAUGHED) or "哈").replace(LAUGHED, "哈")  # laughter about something is left out
    words = SAME_DIGIT.sub(lambda found: found[0][0], REPEATS.sub(r"\1", words))
    return PARTICLES.sub("", words) or words


@lru_cache(SPELLINGS)
def sound(character: str) -> str:
    """Returns the pinyin of a character, without tone and with near sounds folded; other characters as they are."""
    (syllable,) = lazy_pinyin(character) or [character]
    for written, heard in NEAR_SOUNDS:
        if syllable.startswith(written):
            syllable = heard + syllable[len(written) :]
    return syllable[:-1] if syllable.endswith("ng") and len(syllable) > 3 else syllable


def overlap(first: Bag, second: Bag) -> float:
    """Returns Dice's coefficient of two bags, 0 to 1."""
    total = len(first) + len(second)
    return 2 * len(first & second) / total if total else 0.0


def _bag(parts: Iterable[str]) -> Bag:
    counts = Counter(parts)
    return frozenset(counts).union((part, number) for part, count in counts.items() for number in range(1, count))


@lru_cache(SPELLINGS)
def _simplify_character(character: str) -> str:
    return _CONVERTER.convert(character) if "\u4e00" <= character <= "\u9fff" else character


_CONVERTER = OpenCC("t2s")
