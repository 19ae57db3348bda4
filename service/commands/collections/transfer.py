"""Loads files into a collection and exports a collection into a file.

Rows are sent in order, one block at a time, so the last of several equal danmaku decides the metadata, and the number
of loaded rows is always known. Repeating an interrupted load adds nothing twice, since an id is a hash of the text, but
it counts rows twice; the error message therefore says how many rows to skip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import orjson
from danmaku_client import Client
from tqdm import tqdm

from service.commands.collections.files import Files, Row, rows_of
from service.errors import ConfigurationError
from service.recordings import Options

BLOCK_ROWS = 1024
MAX_REASONS = 10  # kept for display; every refused row is counted


@dataclass
class Loaded:
    rows: int = 0
    added: int = 0
    replaced: int = 0
    repeated: int = 0  # equal to another danmaku of the same block
    refused: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # rows that are not danmaku, by reason
    reasons: list[str] = field(default_factory=list)

    def refuse(self, row: Row, error: str) -> None:
        if len(self.reasons) < MAX_REASONS:
            self.reasons.append(f"{row.path}, row {row.number}: {error}")


def load(client: Client, collection: str, files: Files, options: Options, done: Loaded, *, quiet: bool) -> None:
    """Loads all rows after the first `done.rows`; `done` is up to date even if an exception ends the load.

    The collection is created with its first danmaku. Raises RecordingError for a file that changed since it was looked
    at, and the client's errors.
    """
    is_created = False
    total = sum(path.stat().st_size for path in files.paths)
    with tqdm(total=total, disable=quiet, unit="B", unit_scale=True) as bar:
        rows = islice(_rows(files.paths, options, bar), done.rows, None)
        while block := list(islice(rows, BLOCK_ROWS)):
            if not is_created and any(row.item is not None for row in block):
                client.create(collection)
                is_created = True
            _send(client, collection, block, done)
            bar.set_postfix_str(f"{done.rows:,} rows")


def _rows(paths: Sequence[Path], options: Options, bar: tqdm[None]) -> Iterator[Row]:
    for path in paths:
        at = 0
        for row, read in rows_of(path, options):
            bar.update(read - at)
            at = read
            yield row


def _send(client: Client, collection: str, block: Sequence[Row], done: Loaded) -> None:
    readable = [(row, row.item) for row in block if row.item is not None]
    changes = client.add(collection, [item for _, item in readable]) if readable else None
    done.rows += len(block)
    for row in block:
        if row.item is None and row.is_unreadable:
            done.refused += 1
            done.refuse(row, row.error)
        elif row.item is None:
            done.left_out[row.error] += 1
    if changes is None:
        return
    for reason in changes.reasons:
        done.refuse(readable[reason.index][0], reason.error)
    done.added += changes.added
    done.replaced += changes.replaced
    done.refused += changes.refused
    done.repeated += len(readable) - changes.added - changes.replaced - changes.refused


def export(client: Client, collection: str, output: Path, *, quiet: bool) -> int:
    """Writes NDJSON that `load` accepts and returns the number of danmaku; the file appears when it is complete."""

    if output.exists():
        raise ConfigurationError(f"{output} already exists; remove it, or choose another --output")
    draft = output.with_name(output.name + ".part")
    count, after = 0, None
    total = client.describe(collection).count
    with draft.open("wb") as file, tqdm(total=total, disable=quiet, unit=" danmaku") as bar:
        while True:
            page = client.page(collection, after=after)
            file.writelines(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE) for item in page.danmaku)
            count += len(page.danmaku)
            bar.update(len(page.danmaku))
            if (after := page.next) is None:
                break
    draft.replace(output)
    return count
