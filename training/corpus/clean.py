"""Turns recorded danmaku into plain text: one danmaku per line, a blank line between documents.

Drops lines that the model could not learn from, counts them by reason, and holds out a share of the documents for
evaluation. A hash of a document's name decides its split, which is therefore the same on every run.

Files are cleaned in parts by any number of processes. Each part is written to separate files, which are then joined in
the order of the corpus. Memory holds one document per process, the counts and the file names, and the output does not
depend on the number of processes. Shards spread the work over machines: joined in order, they are the whole corpus.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from service.recordings import FORMATS, Options
from service.tokenizer import Tokenizer, learn_vocab, read_vocab
from training.corpus.files import (
    SPLITS,
    Counts,
    Shard,
    Source,
    find_sources,
    one_line,
    read,
    split_of,
    write_document,
)
from training.corpus.parallel import in_order
from training.files import check_writable, replacing, write_text
from training.progress import open_progress

MIN_VOCAB_SIZE = 100
LINES_PER_CALL = 5_000  # to the tokenizer, whose result takes about a kB per line
PART_BYTES, PART_FILES = 4 << 20, 500


def clean(
    inputs: list[Path],
    output: Path,
    *,
    vocab: Path | None = None,
    vocab_size: int = 8000,
    heldout: float = 0.05,
    format_name: str | None = None,
    settings: Options | None = None,
    jobs: int = 1,
    shard: Shard | None = None,
) -> dict[str, object]:
    """Writes train.txt, heldout.txt, vocab.txt and report.json under `output`; returns the report.

    Without `vocab`, a WordPiece vocabulary is learned from the training documents. A shard needs a given vocabulary;
    its files have its number in their names. Raises ValueError, before anything is read, for invalid arguments.
    """
    if not 0 <= heldout < 1:
        raise ValueError(f"invalid heldout: {heldout}; expected a share from 0 to below 1")
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(f"invalid vocab_size: {vocab_size}; expected at least {MIN_VOCAB_SIZE}")
    if jobs < 1:
        raise ValueError(f"invalid jobs: {jobs}; expected at least 1")
    if format_name is not None and format_name not in FORMATS:
        raise ValueError(f"invalid format: {format_name!r}; expected one of {', '.join(FORMATS)}")
    if shard and not vocab:
        raise ValueError(f"no vocabulary for shard {shard}; expected --vocab, the same for all shards")
    sources, duplicates, left_out = find_sources(inputs, format_name, shard)
    settings = settings or Options()
    tokens = read_vocab(vocab) if vocab else None
    check_writable(output / "report.json")  # learning a vocabulary takes minutes
    if tokens is None:
        tokens = learn_vocab(_read_training_texts(sources, format_name, settings, heldout), vocab_size)
    cleaner = Cleaner(tokens, heldout, format_name, settings)

    suffix = shard.suffix if shard else ""
    report_path = output / f"report{suffix}.json"
    counts: Counts = Counter({("dropped_files", "duplicate"): duplicates})
    counts.update({("left_out", f"{path}: {reason}"): 1 for path, reason in left_out})
    with ExitStack() as stack:
        scraps = Path(stack.enter_context(TemporaryDirectory(prefix=".clean-", dir=output)))
        texts = {split: stack.enter_context(replacing(output / f"{split}{suffix}.txt")) for split in SPLITS}
        parts = list(_split_into_parts(sources, scraps))
        progress = stack.enter_context(open_progress("clean", _count_kilobytes(sources), "kB"))
        counted_parts = stack.enter_context(closing(in_order(cleaner, parts, jobs)))  # closes before its files
        for part, counted in zip(parts, counted_parts, strict=True):
            counts.update(counted)
            for split, text in texts.items():
                _move(part.text(split), text)
            progress.update(_count_kilobytes(part.sources))
        report = _make_report(counts, shard, len(tokens))
        if not shard and not counts["kept", "train", "lines"] + counts["kept", "heldout", "lines"]:
            dropped = {name: count for name, count in report.items() if name.startswith(("dropped", "refused"))}
            raise ValueError(f"no danmaku left from {counts['documents_read',]} documents; dropped: {dropped}")
        # The report marks the texts as complete: it is removed before the first change and written after the last.
        report_path.unlink(missing_ok=True)
    write_text(output / "vocab.txt", "\n".join(tokens) + "\n")
    write_text(report_path, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    return report


@dataclass(frozen=True)
class Part:
    """Consecutive files of the corpus, and the prefix of the files for their text."""

    sources: list[Source]
    scrap: Path

    def text(self, split: str) -> Path:
        return self.scrap.with_suffix(f".{split}")


@dataclass(frozen=True)
class Cleaner:
    """Cleans one part of a corpus; pickled and sent to every process."""

    tokens: list[str]
    heldout: float
    format_name: str | None
    settings: Options

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.tokens)

    def __call__(self, part: Part) -> Counts:
        counts: Counts = Counter()
        sieve = Sieve(self.tokenizer)
        with ExitStack() as stack:
            texts = {split: stack.enter_context(replacing(part.text(split))) for split in SPLITS}
            for source in part.sources:
                for document in read(source, self.format_name, self.settings, counts):
                    lines, tokens = sieve.lines(document.lines)
                    if not lines:
                        counts["dropped_documents", "left empty"] += 1
                        continue
                    split = split_of(document.source, self.heldout)
                    write_document(texts[split], lines)
                    for unit, count in (("documents", 1), ("lines", len(lines)), ("tokens", tokens)):
                        counts["kept", split, unit] += count
        counts.update({("dropped", reason): count for reason, count in sieve.dropped.items()})
        counts.update({("unspellable", character): count for character, count in sieve.unspellable.items()})
        return counts


class Sieve:
    """Keeps the danmaku that a vocabulary can spell; counts what it drops, and the characters it missed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.dropped: Counter[str] = Counter()
        self.unspellable: Counter[str] = Counter()

    def lines(self, texts: Sequence[str]) -> tuple[list[str], int]:
        """Returns the texts worth learning from, each on one line, and their number of tokens."""
        kept, count = [], 0
        for start in range(0, len(texts), LINES_PER_CALL):
            candidates = [one_line(text) for text in texts[start : start + LINES_PER_CALL]]
            for line, ids in zip(candidates, self._tokenizer.ids(candidates), strict=True):
                if not ids:  # only blanks and control characters
                    self.dropped["blank"] += 1
                elif self._tokenizer.unk_id in ids:
                    self.dropped["unspellable"] += 1
                    self.unspellable.update(find_unspellable_characters(self._tokenizer, line))
                else:
                    kept.append(line)
                    count += len(ids)
        return kept, count


def find_unspellable_characters(tokenizer: Tokenizer, line: str) -> set[str]:
    """Returns the characters that the vocabulary has no token for; none if only a word is too long."""
    characters = [character for character in dict.fromkeys(tokenizer.normalize(line)) if not character.isspace()]
    return {
        character
        for character, ids in zip(characters, tokenizer.ids(characters), strict=True)
        if tokenizer.unk_id in ids
    }


def _read_training_texts(
    sources: list[Source], format_name: str | None, settings: Options, heldout: float
) -> Iterator[str]:
    with open_progress("vocabulary", _count_kilobytes(sources), "kB") as progress:
        for source in sources:
            for document in read(source, format_name, settings, Counter()):
                if split_of(document.source, heldout) == "train":
                    yield from document.lines
            progress.update(_count_kilobytes([source]))


def _split_into_parts(sources: list[Source], scraps: Path) -> Iterator[Part]:
    """Yields consecutive files, as many at a time as are worth starting a task for."""
    part: list[Source] = []
    number = size = 0
    for source in sources:
        part.append(source)
        size += source.num_bytes
        if size >= PART_BYTES or len(part) >= PART_FILES:
            yield Part(part, scraps / str(number))
            part, size, number = [], 0, number + 1
    if part:
        yield Part(part, scraps / str(number))


def _move(scrap: Path, text: TextIO) -> None:
    with scrap.open(encoding="utf-8", newline="\n") as file:
        shutil.copyfileobj(file, text)
    scrap.unlink()


def _count_kilobytes(sources: list[Source]) -> int:
    return sum(-(-source.num_bytes // 1000) for source in sources)  # each rounded up


def _make_report(counts: Counts, shard: Shard | None, vocab_size: int) -> dict[str, object]:
    """Returns the content of report.json, in which lines_read = kept lines + dropped lines."""

    def under(*place: str) -> dict[str, int]:
        found = [(path[-1], count) for path, count in counts.items() if path[:-1] == place]
        return dict(sorted(found, key=lambda item: (-item[1], item[0])))

    return {
        **({"shard": str(shard)} if shard else {}),
        **{f"{unit}_read": counts[f"{unit}_read",] for unit in ("files", "documents", "lines")},
        "kept": {split: under("kept", split) for split in SPLITS},
        "dropped": under("dropped"),
        "dropped_documents": under("dropped_documents"),
        "dropped_files": under("dropped_files"),
        "refused_files": [*under("refused")],
        "left_out_files": [*under("left_out")],
        "formats": {name: under("formats", name) for name in FORMATS if counts["formats", name, "files"]},
        "commonest_unspellable_characters": dict([*under("unspellable").items()][:50]),
        "vocab_size": vocab_size,
    }
