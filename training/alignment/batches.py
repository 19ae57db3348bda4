"""Chooses the batch of each step of `align` by arithmetic: groups of texts and their targets.

    danmaku      with equally many tokens, each with its moment, and which are wrong answers for which
    spelling     danmaku and general texts with a variant of each and, where a rule makes one, an opposite
    relations    general texts that a teacher knows, each with some texts near it, and the teacher's vectors
    ngrams       the same of danmaku, whose teacher are the vectors of their n-grams (ngrams.py)
    pretraining  masked-LM and next-sentence examples (pretraining.py)

Batch k depends only on (seed, k). Its danmaku have the same length (long ones: nearly the same), so there is hardly any
padding, and length does not give the right answer away. By default half of them are frequent, so all their occurrences
show what they mean; the rest are drawn evenly from all others, most of which occur once. Each brings the danmaku of the
same length that follow it in its video: `lines_per_video` in all. Two of the same moment are a pair; two far apart are
hard negatives.

Danmaku of other videos are wrong answers, and so are danmaku of the same video at a distance of at least
`hard_negative_gap_s`. Copies and near-copies never are.

Shapes: b danmaku, s texts with variants, r texts that the teacher knows, e examples; t tokens, d dimensions. Each group
has its own t.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from service.tokenizer import Tokenizer
from training.alignment.cooccurrence import Cooccurrence
from training.alignment.general_texts import Texts
from training.alignment.opposites import opposites
from training.alignment.pretraining import PretrainingExamples
from training.alignment.relations import TaughtTexts
from training.alignment.timed_lines import kind_of
from training.alignment.variants import Variants
from training.config import AlignConfig
from training.corpus.files import hash_of

LENGTHS = np.array([*range(3, 17), 18, 20, 22, 24, 28, 32, 40, 48, 64, 96, 128])  # with [CLS] and [SEP]
READ_AHEAD = 4

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class AlignmentBatches:
    """The batches of a run."""

    config: AlignConfig
    teacher: Cooccurrence
    tokenizer: Tokenizer
    max_length: int  # of the model
    general: Texts | None = None  # for spelling
    taught: Mapping[str, TaughtTexts] = field(default_factory=dict)  # by group
    pretraining: PretrainingExamples | None = None
    turn: np.ndarray | None = None  # [d, d], of the targets

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """Yields batches endlessly, starting at that step, from a thread that reads ahead."""
        with ThreadPoolExecutor(1) as executor:
            coming = [executor.submit(self.batch, first_step + ahead) for ahead in range(READ_AHEAD)]
            step = first_step + READ_AHEAD
            try:
                while True:
                    coming.append(executor.submit(self.batch, step))
                    step += 1
                    yield coming.pop(0).result()
            finally:
                for batch in coming:
                    batch.cancel()

    def batch(self, step: int) -> Batch:
        """Returns arrays, each named after its group.

        danmaku: input_ids, input_mask int32 [b, t]; targets float32 [b, d]; is_wrong, is_pair, is_stranger bool [b, b].
        spelling: input_ids, input_mask [3s, t], texts before variants before opposites; has_opposite bool [s]; is_same
        bool [s, s]. relations, ngrams: input_ids, input_mask [r, t]; taught float32 [r, e]. A group of weight 0 is left
        out.
        """
        config = self.config
        rng = np.random.default_rng([config.seed, step])
        shares = self._bucket_shares
        bucket = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
        numbers = self._draw(bucket, rng, config.batch_size)
        features = _named("danmaku", self._tokens(numbers, int(self._lengths[bucket])))
        is_wrong, is_pair = self._relations(numbers)
        videos, targets = self.teacher.lines.document_of[numbers], self.teacher.targets(numbers)
        features |= _named(
            "danmaku",
            {
                "targets": targets if self.turn is None else targets @ self.turn,
                "is_wrong": is_wrong,
                "is_pair": is_pair,
                "is_stranger": is_wrong & (videos[:, None] != videos),
            },
        )
        if config.spelling_weight:
            features |= _named("spelling", self._spelling(np.random.default_rng([config.seed, step, 2])))
        for number, (group, count) in enumerate(
            (("relations", config.relation_texts), ("ngrams", config.ngram_texts)), 3
        ):
            if taught := self.taught.get(group):
                chosen = taught.draw(np.random.default_rng([config.seed, step, number]), count)
                rows = [taught.texts.ids(text) for text in chosen]
                features |= _named(
                    group, padded(rows, self.tokenizer, self.max_length) | {"taught": taught.vectors[chosen]}
                )
        if config.pretraining_weight and self.pretraining:
            features |= _named("pretraining", self.pretraining.batch(step, config.pretraining_examples))
        return features

    def _spelling(self, rng: np.random.Generator) -> Batch:
        """Draws texts, half of which have an opposite if enough such texts are among those drawn."""
        wanted = self.config.spelled_texts
        bucket = int(np.searchsorted(self._bucket_shares, rng.random() * self._bucket_shares[-1], side="right"))
        lines = self.teacher.lines
        drawn = [lines.texts[lines.text_of[number]] for number in self._draw(bucket, rng, 6 * wanted)]
        if self.general:  # a third of the candidates
            drawn[::3] = [
                self.general.texts[number] for number in rng.integers(len(self.general.texts), size=2 * wanted)
            ]
        found = [(text, made[rng.integers(len(made))] if (made := opposites(text)) else None) for text in drawn]
        chosen = [pair for pair in found if pair[1]][: wanted // 2]
        chosen = (chosen + [pair for pair in found if not pair[1]] + found)[:wanted]
        texts = [text for text, _ in chosen]
        variants = [self._variant(text, rng) for text in texts]
        rows = self.tokenizer.ids([*texts, *variants, *(other or text for text, other in chosen)])
        kinds = np.array([hash_of_kind(text) for text in texts])
        return {
            **padded(rows, self.tokenizer, self.max_length),
            "has_opposite": np.array([other is not None for _, other in chosen]),
            "is_same": kinds[:, None] == kinds,
        }

    def _variant(self, text: str, rng: np.random.Generator) -> str:
        """Returns a variant that the vocabulary can spell; the text itself after a few tries."""
        for _ in range(3):
            written = self._variants.write_otherwise(text, rng)
            if written != text and self.tokenizer.unk_id not in self.tokenizer.ids([written])[0]:
                return written
        return text

    @cached_property
    def _variants(self) -> Variants:
        return Variants.of_vocabulary(self.tokenizer.vocab)

    def _draw(self, bucket: int, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws the numbers of lines: runs of `lines_per_video` consecutive lines, from anywhere."""
        numbers, cumulated = self._lines_by_bucket[bucket]
        run = self.config.lines_per_video
        heads = np.searchsorted(cumulated, rng.random(-(-count // run)) * cumulated[-1], side="right")
        places = (heads[:, None] + np.arange(run)).ravel()[:count] % len(numbers)
        return np.asarray(numbers[places])

    def _tokens(self, numbers: np.ndarray, length: int) -> Batch:
        lines, tokenizer = self.teacher.lines, self.tokenizer
        texts = lines.text_of[numbers]
        ids = np.full((len(numbers), length), tokenizer.pad_id, np.int32)
        sizes = np.minimum(lines.starts[texts + 1] - lines.starts[texts], length - 2)
        for row, (start, size) in enumerate(zip(lines.starts[texts], sizes, strict=True)):
            ids[row, 1 : size + 1] = lines.tokens[start : start + size]
        ids[:, 0] = tokenizer.cls_id
        ids[np.arange(len(numbers)), sizes + 1] = tokenizer.sep_id
        mask = (np.arange(length) < (sizes + 2)[:, None]).astype(np.int32)
        return {"input_ids": ids, "input_mask": mask}

    def _relations(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which are wrong answers for which, and which are of one moment: bool [b, b] each."""
        lines = self.teacher.lines
        videos, seconds = lines.document_of[numbers], lines.seconds[numbers]
        kinds = lines.kinds[lines.text_of[numbers]]
        others = kinds[:, None] != kinds
        same_video, apart = videos[:, None] == videos, np.abs(seconds[:, None] - seconds)
        return others & (~same_video | (apart >= self.config.hard_negative_gap_s)), (
            others & same_video & (apart <= self.config.window_s)
        )

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.append(LENGTHS[self.max_length > LENGTHS], self.max_length)

    @cached_property
    def _lines_by_bucket(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the lines of each length and their cumulated weights."""
        lines, teacher = self.teacher.lines, self.teacher
        first, last = teacher.stretches
        texts = lines.text_of
        frequent = teacher.row_of[texts] >= 0
        # Weights the occurrences so that a danmaku's total weight is the fourth root of its count, or 1.
        counts = lines.counts[texts].astype(np.float64)
        weights = np.where(frequent, counts**-0.75, 1 / counts) * (last - first > 1)
        for share, chosen in ((self.config.frequent_share, frequent), (1 - self.config.frequent_share, ~frequent)):
            weights[chosen] *= share / max(weights[chosen].sum(), 1e-12)
        sizes = np.minimum(np.diff(lines.starts) + 2, self.max_length)[texts]
        buckets = np.searchsorted(self._lengths, sizes)
        order = np.argsort(buckets, kind="stable")
        edges = np.searchsorted(buckets[order], np.arange(len(self._lengths) + 1))
        return [
            (order[start:end], np.cumsum(weights[order[start:end]]))
            for start, end in zip(edges[:-1], edges[1:], strict=True)
        ]

    @cached_property
    def _bucket_shares(self) -> np.ndarray:
        """Returns the cumulated shares of the buckets."""
        totals = np.array([cumulated[-1] if len(cumulated) else 0.0 for _, cumulated in self._lines_by_bucket])
        return np.cumsum(totals)


def padded(rows: list[list[int]], tokenizer: Tokenizer, max_length: int) -> Batch:
    """Returns input_ids and input_mask, int32 [n, t], of rows of tokens: [CLS] … [SEP]; truncates long rows."""
    length = min(max(map(len, rows)) + 2, max_length)
    ids = np.full((len(rows), length), tokenizer.pad_id, np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for number, row in enumerate(rows):
        tokens = [tokenizer.cls_id, *row[: length - 2], tokenizer.sep_id]
        ids[number, : len(tokens)] = tokens
        mask[number, : len(tokens)] = 1
    return {"input_ids": ids, "input_mask": mask}


def hash_of_kind(text: str) -> int:
    """Returns the same number for texts that differ only in repeats and marks."""
    return hash_of(kind_of(text)) >> 1


def _named(group: str, arrays: Batch) -> Batch:
    return {f"{group}_{name}": values for name, values in arrays.items()}
