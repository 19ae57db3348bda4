"""Files of danmaku, written and read back in one call."""

from __future__ import annotations

from pathlib import Path

from training.corpus.readers import reader_of
from training.corpus.readers.base import Document, ReaderSettings, Tally, documents, name_of

JSON = ReaderSettings(time_field="ts")


def read(path: Path, settings: ReaderSettings = JSON, format: str | None = None) -> tuple[list[Document], Tally]:
    reader, tally = reader_of(path, format), Tally()
    assert reader is not None
    return list(documents(name_of(path), reader.rows(path, settings), settings, tally)), tally


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(path: Path, content: str | bytes, **options: object) -> list[str]:
    return [line for document in read(written(path, content), **options)[0] for line in document.lines]  # type: ignore[arg-type]
