"""Hashes n-grams of one to three characters into buckets, with a few numpy calls for a whole list of texts.

Vectors capture the meaning of a text; characters capture its exact wording, which decides many labels that users
invent. A hash replaces a vocabulary, so a head is small whatever it has read, and applying it needs no dictionary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

LONGEST = 3
BITS_PER_CHARACTER = 21  # of Unicode
BOUNDARY = ord("\n")  # before the first character of a text and after its last
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / φ, Knuth, The Art of Computer Programming 3, 6.4


def hash_ngrams(texts: Sequence[str], bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the buckets of the n-grams of texts, each once per text, their weights, and where each text begins.

    Buckets are below 2^bits [m]; weights are 1 + ln of the n-gram's count in the text [m], as in sublinear TF-IDF; the
    n-grams of text i, at least one, begin at starts[i] [n]. Case, width and repeated spaces do not matter.
    """
    padding = [""] * (LONGEST - 1)  # so that every position has as many characters after it
    joined = "\n".join(["", *(" ".join(text.split()) for text in texts), "", *padding])
    folded = unicodedata.normalize("NFKC", joined).lower()
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    is_boundary = codes == BOUNDARY
    size = len(codes) - LONGEST  # of positions; the last boundary of a text begins the next one
    text_numbers = (np.cumsum(is_boundary[:size]) - 1).astype(np.uint64) << np.uint64(bits)
    keys, exists = np.zeros(size, np.uint64), ~is_boundary[:size]  # a boundary alone says nothing
    found = []
    for order in range(LONGEST):
        keys |= codes[order : order + size] << np.uint64(BITS_PER_CHARACTER * order)
        found.append((text_numbers | (keys * MULTIPLIER) >> np.uint64(64 - bits))[exists])
        exists = exists & ~is_boundary[order : order + size] if order else np.ones(size, bool)
    numbered, counts = np.unique(np.concatenate(found), return_counts=True)
    starts = np.searchsorted(numbered, np.arange(len(texts), dtype=np.uint64) << np.uint64(bits))
    return (numbered & np.uint64((1 << bits) - 1)).astype(np.intp), 1 + np.log(counts, dtype=np.float32), starts
