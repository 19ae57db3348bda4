"""Files that are nearly XML, child by child of their root, with expat, which holds nothing.

Recorders that died left their files open, and viewers paste characters that XML forbids. So the forbidden is taken
out first, the parser is given a piece of the file at a time, up to each closing tag of one name, and after a piece
that it refuses a new parser goes on with the next. A document type declaration is the door of attacks by entities:
refused.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

from training.corpus.readers.base import MALFORMED, MAX_ROW_BYTES

CHUNK = 1 << 16
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
REFERENCE = re.compile(r"&#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}));")


class Child(NamedTuple):
    """A child of the root, with the text that stands directly in it; or, without a name, what went wrong."""

    name: str
    attributes: dict[str, str]
    text: str


def children(path: Path, name: str) -> Iterator[Child]:
    """All children of the root. One called `name` that cannot be read does not spoil the next."""
    parser = _Parser(path)
    for piece in _pieces(path, f"</{name}>"):
        yield from parser.feed(piece)
    yield from parser.close(name)


class _Parser:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._children: list[Child] = []
        self._root = "root"
        self._new()

    def feed(self, piece: str) -> list[Child]:
        piece = FORBIDDEN.sub("", piece)
        if "&#" in piece:
            piece = REFERENCE.sub(_permitted, piece)
        try:
            self._expat.Parse(piece)
        except expat.ExpatError:
            self._children.append(Child("", {}, MALFORMED))
            self._new()
            self._expat.Parse(f"<{self._root}>")
        children, self._children = self._children, []
        return children

    def close(self, name: str) -> list[Child]:
        """An end without the root's closing tag is an end; what was begun is lost."""
        is_open = self._depth > 1 and self._open.name == name
        try:
            self._expat.Parse("", True)
        except expat.ExpatError as error:
            is_open = is_open or error.code == expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN]
        return [Child("", {}, "cut off at the end of the file")] if is_open else []

    def _new(self) -> None:
        self._expat: Any = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartDoctypeDeclHandler = self._doctype
        self._expat.StartElementHandler = self._start
        self._expat.CharacterDataHandler = self._characters
        self._expat.EndElementHandler = self._end
        self._depth = 0
        self._open = Child("", {}, "")
        self._text = ""

    def _doctype(self, *_: object) -> None:
        raise ValueError(
            f"{self._path} has a document type declaration, which can hide attacks and which no recorder writes: "
            "take out the file, or the declaration"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self._root = name
        elif self._depth == 2:
            self._open, self._text = Child(name, attributes, ""), ""

    def _characters(self, text: str) -> None:
        if self._depth == 2 and len(self._text) < MAX_ROW_BYTES:
            self._text += text

    def _end(self, name: str) -> None:
        if self._depth == 2:
            self._children.append(self._open._replace(text=self._text))
        self._depth -= 1


def _pieces(path: Path, end: str) -> Iterator[str]:
    """The file's text, cut after every `end`."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    rest = ""
    with path.open("rb") as file:
        while raw := file.read(CHUNK):
            *pieces, rest = (rest + decoder.decode(raw)).split(end)
            for piece in pieces:
                yield piece + end
            if len(rest) > MAX_ROW_BYTES:
                yield rest
                rest = ""
    yield rest + decoder.decode(b"", final=True)


def _permitted(reference: re.Match[str]) -> str:
    """A character reference, or nothing where XML 1.0 forbids the character even so."""
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    is_permitted = code in (9, 10, 13) or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0xFFFF < code < 0x110000
    return reference[0] if is_permitted else ""
