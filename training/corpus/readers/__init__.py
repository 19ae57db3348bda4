"""The formats that danmaku come in, and how the one of a file is recognised: by what it says, else by its suffix.

1. The first 64 KiB are shown to every reader, in the order below; the first that is sure has it: an XML
   declaration or danmaku elements; the first section of ASS; lines of which most are JSON objects, rows of a CSV
   file, or those of the day files, where one count of viewers suffices.
2. If none is, the suffix decides: .xml, .ass, .jsonl, .ndjson, .csv, and .txt for the recipe's plain text, which has
   no marks of its own.
3. Else it is none of them. So is a file of another suffix in a folder, which is not even opened.

`--format` skips all this.
"""

from __future__ import annotations

from pathlib import Path

from training.corpus.readers import ass, danmaku_xml, day_file, json_lines, plain_text, video_csv
from training.corpus.readers.base import Reader

# The order is that of the better source, where one recording lies there in several formats.
READERS = tuple(module.READER for module in (danmaku_xml, json_lines, day_file, video_csv, ass, plain_text))
FORMATS = {reader.name: reader for reader in READERS}
SUFFIXES = {suffix: rank for rank, reader in reversed([*enumerate(READERS)]) for suffix in reader.suffixes}
HEAD_BYTES = 1 << 16


def reader_of(path: Path, format: str | None = None) -> Reader | None:
    """The reader for a file; None if nobody knows it."""
    if format is not None:
        return FORMATS[format]
    with path.open("rb") as file:
        raw = file.read(HEAD_BYTES)
    head = raw.decode("utf-8-sig", errors="replace")
    if len(raw) == HEAD_BYTES:
        head = head.rpartition("\n")[0] or head  # its last line is cut
    for reader in READERS:
        if reader.recognises(head):
            return reader
    readers = [reader for reader in READERS if path.suffix.lower() in reader.suffixes]
    return readers[-1] if readers else None
