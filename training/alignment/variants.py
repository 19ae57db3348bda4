"""Makes spelling variants by rule: repeats, marks, particles, width, traditional characters, homophones.

Viewers write one thing in many ways, most of which are too rare to be learned from their context. So training
makes variants: each rule changes the spelling but not the meaning, and one or two rules are applied at random.

Left out: lists of names or memes. The model learns those from what viewers write.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from opencc import OpenCC
from pypinyin import Style, lazy_pinyin

PARTICLES = ("啊", "呀", "啦", "哦", "哇", "呢", "了", "~")
MARKS = ("！", "!", "！！", "!!!", "。", "~", "～", "…", "...", " ")
RUN = re.compile(r"(.{1,3}?)\1+")
END_MARKS = re.compile(r"[！!。.~～…，,、 ]+$")
FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
HALF_WIDTH = {wide: narrow for narrow, wide in FULL_WIDTH.items()}
LONGEST_UNIT = 4  # characters of a text that is written twice as a whole
MOST_REPEATS = 6

Rule = Callable[[str, np.random.Generator], str]


@dataclass(frozen=True)
class Variants:
    """The rules, for the characters of a vocabulary; they insert no other characters."""

    characters: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of_vocabulary(cls, vocab: Iterable[str]) -> Variants:
        return cls(frozenset(token for token in vocab if len(token) == 1))

    def write_otherwise(self, text: str, rng: np.random.Generator) -> str:
        """Returns a different spelling of the text, or the text itself if no rule applies."""
        wanted = 1 + int(rng.random() < 0.3)
        changed = 0
        written = text
        for number in rng.permutation(len(self._rules)):
            new = self._rules[number](written, rng)
            if new != written and new.strip():
                written, changed = new, changed + 1
            if changed == wanted:
                break
        return written

    @cached_property
    def _rules(self) -> list[Rule]:
        rules: list[Rule] = [change_repeats, change_repeats, change_marks, add_particle, change_width, change_case]
        for table in (self._traditional, self._homophones):
            if table:
                rules.append(_replacement(table))
        return rules

    @cached_property
    def _traditional(self) -> dict[str, list[str]]:
        convert = OpenCC("s2t").convert
        return self._known({character: [convert(character)] for character in self.characters})

    @cached_property
    def _homophones(self) -> dict[str, list[str]]:
        """Maps each character to others with the same pronunciation, including the tone."""
        read_as: dict[str, list[str]] = defaultdict(list)
        for character in sorted(self.characters):
            if "一" <= character <= "鿿":
                read_as[lazy_pinyin(character, style=Style.TONE3)[0]].append(character)
        return self._known({one: alike for alike in read_as.values() for one in alike})

    def _known(self, table: dict[str, list[str]]) -> dict[str, list[str]]:
        known = {
            one: [other for other in others if other != one and other in self.characters]
            for one, others in table.items()
        }
        return {one: others for one, others in known.items() if others}


def change_repeats(text: str, rng: np.random.Generator) -> str:
    """Makes a run longer or shorter, but not single; repeats a short text that has no run."""
    runs = list(RUN.finditer(text))
    if runs:
        run = runs[rng.integers(len(runs))]
        before = len(run[0]) // len(run[1])
        count = int(rng.integers(2, before + MOST_REPEATS))
        return text[: run.start()] + run[1] * count + text[run.end() :]
    if len(text) <= LONGEST_UNIT:
        return text * int(rng.integers(2, 4))
    last = text[-1]
    return text + last * int(rng.integers(1, 4)) if not last.isalnum() else text


def change_marks(text: str, rng: np.random.Generator) -> str:
    """Removes or replaces the marks at the end; a question keeps its mark."""
    bare = END_MARKS.sub("", text)
    if bare and bare != text and rng.random() < 0.5:
        return bare
    if text.endswith(("?", "？")):
        return text + text[-1] * int(rng.integers(1, 3))
    return (bare or text) + MARKS[rng.integers(len(MARKS) - 1)]


def add_particle(text: str, rng: np.random.Generator) -> str:
    """Adds or removes a particle that carries mood but no meaning; only for Chinese texts."""
    if len(text) > 2 and text[-1] in PARTICLES[:4] and rng.random() < 0.5:
        return text[:-1]
    if "一" <= text[-1] <= "鿿" and text[-1] not in "吗么呢吧啊呀啦哦哇了":
        return text + PARTICLES[rng.integers(4)]
    return text


def change_width(text: str, rng: np.random.Generator) -> str:
    """Replaces ASCII by full-width characters, and vice versa."""
    wide = text.translate(FULL_WIDTH)
    return wide if wide != text and rng.random() < 0.8 else text.translate(HALF_WIDTH)


def change_case(text: str, rng: np.random.Generator) -> str:
    """Puts spaces between letters, as viewers do for stress: a w s l. (The tokenizer itself folds case.)"""
    if text.isascii() and text.isalnum() and 2 <= len(text) <= LONGEST_UNIT + 1 and len(set(text)) > 1:
        return " ".join(text)
    return text


def _replacement(table: dict[str, list[str]]) -> Rule:
    """Returns a rule that replaces one character that is in the table."""

    def replace(text: str, rng: np.random.Generator) -> str:
        places = [place for place, character in enumerate(text) if character in table]
        if not places:
            return text
        place = places[rng.integers(len(places))]
        others = table[text[place]]
        return text[:place] + others[rng.integers(len(others))] + text[place + 1 :]

    return replace
