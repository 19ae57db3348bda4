"""Makes masked-LM and next-sentence examples from documents, as google-research/bert defines the two tasks.

Pure functions of (token ids, settings, random generator), without TensorFlow. `make_shards` streams the cleaned text:
it holds the documents of at most two shards, and a shard depends only on its documents, the seed and its number. Masks
are made with the example (`static`) and may be replaced each time it is read (training/examples/masking.py).

An example is `[CLS] A [SEP] B [SEP]`, where A and B are each one or more consecutive danmaku. Half of the time B
follows A in the document; otherwise B is from another document, and the lines that follow A start the next example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from service.recordings.documents import Document
from service.tokenizer import Tokenizer
from training.corpus.files import read_text
from training.examples.masking import mask_tokens
from training.examples.settings import ExampleSettings, Vocabulary
from training.examples.words import CONTINUES, tokenize_words

Line = list[int]  # the token ids of one danmaku; for whole-word masking, with the flag CONTINUES inside words


def sentence_pairs(
    documents: Sequence[Sequence[Line]], settings: ExampleSettings, rng: np.random.Generator
) -> Iterator[tuple[Line, Line, bool]]:
    """Yields (A, B, is_random_next) for one pass over all documents; every line is in at least one pair."""
    if len(documents) < 2:
        raise ValueError(f"got {len(documents)} document; expected at least 2, to draw a next sentence from")
    longest = settings.max_seq_length - 3  # [CLS], [SEP], [SEP]
    for index, lines in enumerate(documents):
        start = 0
        while start < len(lines):
            # We *usually* want to fill the whole sequence, since short ones waste computation. *Sometimes* a
            # short one narrows the gap to what the model is used for.
            target = longest
            if rng.random() < settings.short_seq_prob:
                target = int(rng.integers(2, longest + 1))
            end, total = start, 0
            while end < len(lines) and total < target:
                total += len(lines[end])
                end += 1
            alone = end - start == 1
            split = end if alone else int(rng.integers(start + 1, end))
            a = _concatenate(lines[start:split])
            is_random_next = alone or rng.random() < 0.5
            if is_random_next:
                other = int(rng.integers(len(documents) - 1))
                partner = documents[other + (other >= index)]
                first = int(rng.integers(len(partner)))
                b: Line = []
                for line in partner[first:]:
                    if len(a) + len(b) >= target:
                        break
                    b += line
                b = b or list(partner[first])
                start = split  # a true B would have used these lines: they start the next example
            else:
                b = _concatenate(lines[split:end])
                start = end
            truncate(a, b, target, rng)
            yield a, b, is_random_next


def make_examples(
    documents: Sequence[Sequence[Line]],
    settings: ExampleSettings,
    vocabulary: Vocabulary,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Makes the examples of a shard, shuffled: feature names of run_pretraining.py → arrays of n rows.

    input_ids, input_mask, segment_ids [n, max_seq_length]; masked_lm_positions, masked_lm_ids,
    masked_lm_weights [n, max_predictions_per_seq]; next_sentence_labels [n, 1], where 1 means that B is from
    another document. Whole-word masking adds word_starts [n, max_seq_length], which BERT's own code ignores.
    """
    pairs = [pair for _ in range(settings.dupe_factor) for pair in sentence_pairs(documents, settings, rng)]
    rng.shuffle(pairs)
    n, t = len(pairs), settings.max_seq_length
    features = {name: np.zeros((n, t), np.int32) for name in ("input_ids", "input_mask", "segment_ids")}
    features["next_sentence_labels"] = np.zeros((n, 1), np.int32)
    features["input_ids"][:] = vocabulary.pad_id
    if settings.masking == "wwm":
        features["word_starts"] = np.zeros((n, t), np.int32)
    for row, (a, b, is_random_next) in enumerate(pairs):
        tokens = [vocabulary.cls_id, *a, vocabulary.sep_id, *b, vocabulary.sep_id]
        features["input_mask"][row, : len(tokens)] = 1
        features["segment_ids"][row, len(a) + 2 : len(tokens)] = 1
        features["next_sentence_labels"][row] = is_random_next
        if settings.masking == "wwm":
            features["word_starts"][row, : len(tokens)] = [not token & CONTINUES for token in tokens]
            tokens = [token & ~CONTINUES for token in tokens]
        features["input_ids"][row, : len(tokens)] = tokens
    return mask_tokens(features, settings, vocabulary, rng.integers(2**64, size=n, dtype=np.uint64))


def make_shards(
    texts: Path | list[Path], tokenizer: Tokenizer, settings: ExampleSettings, *, seed: int, lines_per_shard: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the examples of a cleaned text by shard, each a function of (documents, settings, seed, number)."""
    vocabulary = Vocabulary.of(tokenizer)
    for number, documents in enumerate(group_documents(read_text(texts), lines_per_shard)):
        tokenize = partial(tokenize_words, tokenizer) if settings.masking == "wwm" else tokenizer.ids
        ids = [tokenize(document.lines) for document in documents]
        yield make_examples(ids, settings, vocabulary, np.random.default_rng([seed, number]))


def group_documents(documents: Iterator[Document], lines_per_shard: int) -> Iterator[list[Document]]:
    """Yields lists of consecutive documents with about `lines_per_shard` lines; never one alone if there are more."""
    shard: list[Document] = []
    ready: list[Document] = []
    lines = 0
    for document in documents:
        shard.append(document)
        lines += len(document.lines)
        if len(shard) > 1 and lines >= lines_per_shard:
            if ready:
                yield ready
            ready, shard, lines = shard, [], 0
    if len(shard) == 1:
        ready, shard = ready + shard, []
    yield from (group for group in (ready, shard) if group)


def _concatenate(lines: Sequence[Line]) -> Line:
    return [token for line in lines for token in line]


def truncate(a: Line, b: Line, target: int, rng: np.random.Generator) -> None:
    """Removes tokens from the front or the back of the longer one, in place, until both have `target` tokens in all."""
    while len(a) + len(b) > target:
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()
