"""Files of danmaku, written and read in one call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from service.recordings import Options, open_recording
from service.recordings.documents import Document, Tally, documents

JSON = Options(time_column="ts")


def read(path: Path, options: Options | None = None, kind: str | None = None) -> tuple[list[Document], Tally]:
    options, tally = replace(options or Options(), format=kind), Tally()
    recording = open_recording(path, options)
    return list(documents(recording.name, recording.rows(), options, tally)), tally


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(path: Path, content: str | bytes, **options: object) -> list[str]:
    return [line for document in read(written(path, content), **options)[0] for line in document.lines]  # type: ignore[arg-type]
