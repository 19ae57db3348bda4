"""Reads labelled texts, leaves out copies, and splits them so that no text is in both parts.

A file is CSV, TSV or NDJSON. The first line of CSV and TSV may name the columns; otherwise the text is the first and
the label the second. Texts are copies if they differ only in case, width and spaces.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.recordings.decoding import decode, detect
from training.corpus.files import hash_of

COLUMNS = ("text", "label")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
NDJSON = (".ndjson", ".jsonl")
FEWEST = 4  # texts per label


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, each once, in an order that depends only on the texts."""

    texts: list[str]
    labels: np.ndarray  # [n], indices of `names`
    names: tuple[str, ...]
    copies: int = 0  # copies that were left out, …
    contradictions: int = 0  # … and texts with several equally frequent labels

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, chosen: np.ndarray) -> LabelledTexts:
        """Returns the texts with these numbers, or where `chosen` [n] is true."""
        numbers = np.arange(len(self.texts))[chosen]
        return LabelledTexts([self.texts[number] for number in numbers], self.labels[numbers], self.names)

    def split(self, share: float, purpose: str) -> tuple[LabelledTexts, LabelledTexts]:
        """Returns the remaining texts, and `share` of the texts of each label, by a hash of the text."""
        chosen = self.mark(share, purpose)
        return self.select(~chosen), self.select(chosen)

    def mark(self, share: float, purpose: str) -> np.ndarray:
        """Returns a mask [n], true for the texts that `split` takes out."""
        chosen = np.zeros(len(self.texts), bool)
        hashes = np.array([hash_of(f"{purpose} {fold_text(text)}") for text in self.texts], np.uint64)
        for label in range(len(self.names)):
            members = np.flatnonzero(self.labels == label)
            chosen[members[np.argsort(hashes[members])][: round(share * len(members))]] = True
        return chosen

    def without(self, others: LabelledTexts) -> LabelledTexts:
        """Returns the texts that are not copies of others."""
        known = set(map(fold_text, others.texts))
        return self.select(np.array([fold_text(text) not in known for text in self.texts], bool))


def fold_text(text: str) -> str:
    """Returns the text in a form that is equal for copies."""
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


def read_labelled(path: Path, names: tuple[str, ...] | None = None) -> LabelledTexts:
    """Reads a file. `names` are the allowed labels (default: those in the file). Raises ValueError or OSError."""
    votes: dict[str, Counter[str]] = {}
    spelled: dict[str, str] = {}
    count = 0
    for place, text, label in _read_rows(path):
        if names is not None and label not in names:
            raise ValueError(f"invalid {place}: label {label!r}; expected one of {', '.join(names)}")
        key = fold_text(text)
        if not key or not label:
            raise ValueError(f"invalid {place}: no {'label' if key else 'text'}; expected a text and its label")
        votes.setdefault(key, Counter())[label] += 1
        spelled.setdefault(key, text)
        count += 1
    decided = {}
    for key in sorted(votes, key=hash_of):
        (label, most), *others = votes[key].most_common(2)
        if not others or others[0][1] < most:
            decided[key] = label
    if votes and not decided:
        raise ValueError(f"invalid {path}: every text has two labels equally often; expected one label for each text")
    found = Counter(decided.values())
    names = names or tuple(sorted(found))
    if len(names) < 2:
        raise ValueError(f"invalid {path}: {len(names)} labels; expected at least 2")
    labels = np.array([names.index(label) for label in decided.values()], np.int64)
    texts = [spelled[key] for key in decided]
    return LabelledTexts(texts, labels, names, count - len(votes), len(votes) - len(decided))


def check_learnable(texts: LabelledTexts, path: Path) -> None:
    """Raises ValueError if a label has too few texts to learn from."""
    for name, count in zip(texts.names, np.bincount(texts.labels, minlength=len(texts.names)), strict=True):
        if count < FEWEST:
            raise ValueError(f"invalid {path}: label {name!r} has {count} different texts; expected at least {FEWEST}")


def _read_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields place, text and label."""
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, *NDJSON):
        raise ValueError(f"invalid {path}: expected a name that ends in {', '.join((*DELIMITERS, *NDJSON))}")
    with path.open("rb") as file:
        content = "".join(decode(file, detect(str(path), file, None)))
    yield from _read_json(path, content) if suffix in NDJSON else _read_table(path, content, DELIMITERS[suffix])


def _read_json(path: Path, content: str) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, label = row["text"], row["label"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'invalid {path}, line {number}: expected {{"text": "…", "label": "…"}}') from None
        if not isinstance(text, str) or not isinstance(label, str | int):
            raise ValueError(f"invalid {path}, line {number}: expected a text and a label that are strings")
        yield f"{path}, line {number}", text, str(label).strip()


def _read_table(path: Path, content: str, delimiter: str) -> Iterator[tuple[str, str, str]]:
    lines = io.StringIO(content, newline="")
    rows = csv.reader(lines) if delimiter == "," else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    places = (0, 1)
    for row in rows:
        place = f"{path}, line {rows.line_num}"
        if rows.line_num == 1 and set(COLUMNS) <= {cell.strip().lower() for cell in row}:
            header = [cell.strip().lower() for cell in row]
            places = (header.index("text"), header.index("label"))
        elif len(row) > max(places):
            yield place, row[places[0]], row[places[1]].strip()
        elif row:
            raise ValueError(
                f"invalid {place}: {len(row)} columns; expected text and label, with {delimiter!r} between"
            )
