"""Makes the masked-LM and next-sentence examples of a step: `[CLS] A [SEP] B [SEP]` as in sentence_pairs.py.

The model stays a language model during `align` only if it keeps reading consecutive danmaku. Examples
begin at evenly drawn lines, so nothing needs to be written to disk, and their masks are new each time.
General texts have no order, so they have no next-sentence task.

Shapes: e examples, t tokens, p places for predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from service.tokenizer import Tokenizer
from training.alignment.general_texts import Texts
from training.alignment.timed_lines import TimedLines
from training.examples.masking import mask_tokens, row_keys
from training.examples.sentence_pairs import truncate
from training.examples.settings import ExampleSettings, Vocabulary

Batch = dict[str, np.ndarray]
LinesFrom = Callable[[int], list[int]]  # the tokens of a line, by its number


@dataclass(frozen=True)
class PretrainingExamples:
    """The examples of a run."""

    lines: TimedLines
    general: Texts | None
    tokenizer: Tokenizer
    settings: ExampleSettings
    general_share: float  # of the examples
    seed: int

    def batch(self, step: int, count: int) -> Batch:
        """Returns input_ids, input_mask, segment_ids int32 [e, t]; masked_lm_* [e, p]; next_sentence_labels [e, 1];

        next_sentence_weights [e], 0 for general texts."""
        rng = np.random.default_rng([self.seed, step, 1])
        num_general = round(self.general_share * count) if self.general else 0
        length = self.settings.max_seq_length
        features = {name: np.zeros((count, length), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
        features["input_ids"][:] = self.tokenizer.pad_id
        labels = np.zeros((count, 1), np.int32)
        for row in range(count):
            a, b, is_random = self._of_general(rng) if row < num_general else self._of_danmaku(rng)
            tokens = [self.tokenizer.cls_id, *a, self.tokenizer.sep_id, *b, self.tokenizer.sep_id]
            features["input_ids"][row, : len(tokens)] = tokens
            features["input_mask"][row, : len(tokens)] = 1
            features["segment_ids"][row, len(a) + 2 : len(tokens)] = 1
            labels[row] = is_random
        keys = row_keys(self.seed, np.full(count, step), np.arange(count), np.zeros(count, np.int64))
        hidden = mask_tokens(features, self.settings, Vocabulary.of(self.tokenizer), keys)
        weights = (np.arange(count) >= num_general).astype(np.float32)
        return {**hidden, "next_sentence_labels": labels, "next_sentence_weights": weights}

    def _of_danmaku(self, rng: np.random.Generator) -> tuple[list[int], list[int], bool]:
        lines = self.lines
        first = int(rng.integers(len(lines.text_of)))
        document = int(lines.document_of[first])
        other = first
        while lines.document_of[other] == document and self._num_documents > 1:
            other = int(rng.integers(len(lines.text_of)))
        return self._pair(self._ids_of_line, self._ends, first, other, rng)

    def _of_general(self, rng: np.random.Generator) -> tuple[list[int], list[int], bool]:
        assert self.general is not None
        count = len(self.general.texts)
        first, other = (int(number) for number in rng.integers(count, size=2))
        return self._pair(self.general.ids, np.full(1, count), first, other, rng)

    def _pair(
        self, ids: LinesFrom, ends: np.ndarray, first: int, other: int, rng: np.random.Generator
    ) -> tuple[list[int], list[int], bool]:
        """Returns (A, B, is_random_next): A starts at the line `first`; B follows A, or starts at `other`."""
        longest = self.settings.max_seq_length - 3
        target = longest
        if rng.random() < self.settings.short_seq_prob:
            target = int(rng.integers(2, longest + 1))
        taken = self._take(ids, ends, first, target)
        split = len(taken) if len(taken) == 1 else int(rng.integers(1, len(taken)))
        is_random = len(taken) == 1 or bool(rng.random() < 0.5)
        a = [token for line in taken[:split] for token in line]
        following = self._take(ids, ends, other, max(1, target - len(a))) if is_random else taken[split:]
        b = [token for line in following for token in line]
        truncate(a, b, target, rng)
        return a, b, is_random

    @staticmethod
    def _take(ids: LinesFrom, ends: np.ndarray, first: int, target: int) -> list[list[int]]:
        """Takes consecutive lines of one document until they have this many tokens."""
        end = int(ends[np.searchsorted(ends, first, side="right")])
        taken: list[list[int]] = []
        total = 0
        while first < end and total < target:
            taken.append(ids(first))
            total += len(taken[-1])
            first += 1
        return taken

    def _ids_of_line(self, line: int) -> list[int]:
        lines = self.lines
        text = lines.text_of[line]
        return lines.tokens[lines.starts[text] : lines.starts[text + 1]].tolist()

    @cached_property
    def _ends(self) -> np.ndarray:
        """Returns where documents end, as line numbers."""
        changes = np.flatnonzero(np.diff(self.lines.document_of)) + 1
        return np.append(changes, len(self.lines.document_of))

    @cached_property
    def _num_documents(self) -> int:
        return len(self._ends)
