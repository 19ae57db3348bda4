"""Parses plain text: one danmaku per line, with blank lines between the documents of a file.

Documents are identified by number. A file that is not recognised as another format is plain text.
"""

from __future__ import annotations

import re

from service.recordings.base import LineParser, Row


class PlainText(LineParser):
    def __init__(self, name: str, undecodable: re.Pattern[str] | None) -> None:
        super().__init__(undecodable)
        self._name = name
        self._number, self._is_inside = 0, False

    def line(self, line: str) -> tuple[Row, ...]:
        text = line.strip()
        if not text:
            self._is_inside = False
            return ()
        self._number += not self._is_inside
        self._is_inside = True
        return (Row(text, document=f"{self._name}#{self._number}"),)
