"""Writes results as Markdown tables, aligned for reading in a terminal, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.files import write_text


def align(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns the lines of a Markdown table with columns of even width; the first tuple is the header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rows.insert(1, " | ".join("-" * width for width in widths))
    return [f"| {row} |" for row in rows]


def write_markdown(path: Path, table: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table)


def write_json(path: Path, rows: Sequence[Any]) -> None:
    """Writes dataclasses as a JSON list of objects; the file is either complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps([asdict(row) for row in rows], ensure_ascii=False, indent=2) + "\n")
