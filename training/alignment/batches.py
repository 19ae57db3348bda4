"""Chooses the batch of each step of `align` by arithmetic: danmaku of one length, and the target of each.

A batch has danmaku of one number of tokens (longer ones: of nearly one), so hardly anything is padding, and length
cannot tell a right answer from a wrong one. Batch k is a function of (seed, k) alone. Half of it, unless told
otherwise, are danmaku that are frequent, whose meaning all their occurrences tell; the rest are drawn evenly from all
others, of which most stand there once. Each brings those that follow it in its video and are as long: `lines_per_video`
in all. What of them is of one moment is a pair; what is far apart is a hard negative.

Which danmaku of a batch are wrong answers for which: those of other videos, and of the same video only from
`hard_negative_gap_s` on. Copies and near-copies never are.

Shapes: b danmaku, of which the first q have masks; t tokens, p masked ones; d dimensions.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from service.tokenizer import Tokenizer
from training.alignment.cooccurrence import Cooccurrence
from training.config import AlignConfig
from training.examples.masking import mask_tokens, row_keys
from training.examples.settings import ExampleSettings, Vocabulary

LENGTHS = np.array([*range(3, 17), 18, 20, 22, 24, 28, 32, 40, 48, 64, 96, 128])  # with [CLS] and [SEP]
MASKED_LM_PROB = 0.15
READ_AHEAD = 4

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class AlignmentBatches:
    """Every batch of a run."""

    config: AlignConfig
    teacher: Cooccurrence
    tokenizer: Tokenizer
    max_length: int  # of the model

    def batches(self, first_step: int) -> Generator[Batch, None, None]:
        """Without end, from that step on, made on a thread that reads ahead."""
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
        """input_ids, input_mask int32 [b, t]; targets float32 [b, d]; is_wrong and is_pair bool [b, b]; and, of the

        masked ones, masked_lm_positions, masked_lm_ids int32 [q, p] and masked_lm_weights float32 [q, p].
        """
        rng = np.random.default_rng([self.config.seed, step])
        shares = self._bucket_shares
        bucket = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
        numbers = self._draw(bucket, rng)
        features = self._tokens(numbers, int(self._lengths[bucket]))
        if count := self.num_masked:
            settings = ExampleSettings(
                max_seq_length=128,  # of no matter here
                max_predictions_per_seq=max(1, round(MASKED_LM_PROB * (features["input_ids"].shape[1] - 2))),
                masked_lm_prob=MASKED_LM_PROB,
            )
            keys = row_keys(self.config.seed, np.full(count, step), np.arange(count), np.zeros(count, np.int64))
            hidden = mask_tokens(
                {name: values[:count] for name, values in features.items()},
                settings,
                Vocabulary.of(self.tokenizer),
                keys,
            )
            features["input_ids"] = np.concatenate([hidden["input_ids"], features["input_ids"][count:]])
            features |= {name: hidden[name] for name in hidden if name.startswith("masked_lm")}
        is_wrong, is_pair = self._relations(numbers)
        return {**features, "targets": self.teacher.targets(numbers), "is_wrong": is_wrong, "is_pair": is_pair}

    @property
    def num_masked(self) -> int:
        return round(self.config.masked_share * self.config.batch_size) if self.config.masked_lm_weight else 0

    def _draw(self, bucket: int, rng: np.random.Generator) -> np.ndarray:
        """The numbers of the lines: runs of `lines_per_video` that stand together, each from anywhere."""
        numbers, cumulated = self._lines_by_bucket[bucket]
        run = self.config.lines_per_video
        heads = np.searchsorted(cumulated, rng.random(-(-self.config.batch_size // run)) * cumulated[-1], side="right")
        places = (heads[:, None] + np.arange(run)).ravel()[: self.config.batch_size] % len(numbers)
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
        """Which are wrong for which, and which are of one moment: bool [b, b] each."""
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
        # An occurrence of a danmaku weighs so much that the danmaku weighs as the fourth root of its count, or as 1.
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
        """Cumulated."""
        totals = np.array([cumulated[-1] if len(cumulated) else 0.0 for _, cumulated in self._lines_by_bucket])
        return np.cumsum(totals)
