"""From recorded danmaku to the recipe's plain text: one danmaku a line, a blank line between documents.

Drops what the model could not learn from, counts every drop with its reason, and keeps a share of the
documents apart for judging (held out by a hash of the document's name, so that it is the same share on every
run). Documents are streamed; memory holds one document and the counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

from service.tokenizer import Tokenizer, learn_vocab, read_vocab
from training.corpus import find_documents, hash_of, read_csv
from training.files import replacing, write_text
from training.progress import Progress

SPLITS = ("train", "heldout")
MIN_VOCAB_SIZE = 100


def clean(
    inputs: list[Path],
    output: Path,
    *,
    vocab: Path | None = None,
    vocab_size: int = 8000,
    heldout: float = 0.05,
) -> dict[str, object]:
    """Writes train.txt, heldout.txt, vocab.txt and report.json under `output`; returns the report.

    Without `vocab` a WordPiece vocabulary is learned from the training documents.
    """
    if not 0 <= heldout < 1:
        raise ValueError(f"the held-out share is {heldout}; it must be at least 0 and below 1")
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"the vocabulary's size is {vocab_size}; it must be at least {MIN_VOCAB_SIZE}")
    files, duplicates = find_documents(inputs)
    tokens = read_vocab(vocab) if vocab else learn_vocab(_training_texts(files, heldout), vocab_size)
    sieve = Sieve(Tokenizer(tokens))
    sieve.dropped["duplicate document"] += duplicates
    output.mkdir(parents=True, exist_ok=True)

    kept = {split: Counter[str]() for split in SPLITS}
    progress = Progress("clean", len(files), "documents")
    with ExitStack() as stack:
        texts = {split: stack.enter_context(replacing(output / f"{split}.txt")) for split in SPLITS}
        for number, path in enumerate(files, 1):
            document = read_csv(path)
            sieve.dropped["malformed row"] += document.malformed
            lines, count = sieve.lines(document.lines)
            progress.update(number)
            if not lines:
                sieve.dropped["document left empty"] += 1
                continue
            split = split_of(document.id, heldout)
            write_document(texts[split], lines)
            kept[split].update(documents=1, lines=len(lines), tokens=count)
        if not any(kept.values()):
            raise ValueError(f"nothing is left of {len(files)} documents; dropped: {dict(sieve.dropped)}")
        # The report is what says that the folder is whole: it goes before the first change and comes after
        # the last.
        (output / "report.json").unlink(missing_ok=True)
    write_text(output / "vocab.txt", "\n".join(tokens) + "\n")
    report: dict[str, object] = {
        "documents_read": len(files),
        "kept": {split: dict(kept[split]) for split in SPLITS},
        "dropped": dict(sieve.dropped),
        "commonest_unspellable_characters": dict(sieve.unspellable.most_common(50)),
        "vocab_size": len(tokens),
    }
    write_text(output / "report.json", json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    return report


class Sieve:
    """Keeps the danmaku that a vocabulary can spell; counts what it drops, and the characters it missed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.dropped: Counter[str] = Counter()
        self.unspellable: Counter[str] = Counter()

    def lines(self, texts: list[str]) -> tuple[list[str], int]:
        """Those of the texts, each on one line, that are worth learning from; and their number of tokens."""
        candidates = [one_line(text) for text in texts]
        kept, count = [], 0
        for line, ids in zip(candidates, self._tokenizer.ids(candidates), strict=True):
            if not ids:  # nothing but blanks and control characters
                self.dropped["blank"] += 1
            elif self._tokenizer.unk_id in ids:
                self.dropped["unspellable"] += 1
                self.unspellable.update(unspellable_characters(self._tokenizer, line))
            else:
                kept.append(line)
                count += len(ids)
        return kept, count


def write_document(file: TextIO, lines: list[str]) -> None:
    """Appends a document as `corpus.read_text` reads it."""
    file.write("\n".join(lines) + "\n\n")


def one_line(text: str) -> str:
    """The text with every run of whitespace, exotic line separators included, as one space."""
    return " ".join(text.split())


def split_of(document_id: str, heldout: float) -> str:
    """The split a document belongs to, now and on every later run."""
    return "heldout" if hash_of(f"split {document_id}") < heldout * 2**64 else "train"


def unspellable_characters(tokenizer: Tokenizer, line: str) -> set[str]:
    """The characters for which the vocabulary has no token; empty where a word is only too long."""
    characters = [character for character in dict.fromkeys(tokenizer.normalize(line)) if not character.isspace()]
    return {
        character
        for character, ids in zip(characters, tokenizer.ids(characters), strict=True)
        if tokenizer.unk_id in ids
    }


def _training_texts(files: list[Path], heldout: float) -> Iterator[str]:
    progress = Progress("vocabulary", len(files), "documents")
    for number, path in enumerate(files, 1):
        if split_of(path.stem, heldout) == "train":
            yield from read_csv(path).lines
        progress.update(number)
