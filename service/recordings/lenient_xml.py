"""Parses text that is nearly XML, child by child of its root, with expat and constant memory.

Recorders that crashed left their files open, viewers paste characters that XML forbids, and old tools escape nothing.
So forbidden characters are removed first. The parser gets one piece at a time, up to each closing tag of one name, and
an element of that name that it refuses is read by its first and last tag. All roots of a file are wrapped in one of
ours. A document type declaration would allow entity attacks, so it is refused.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from xml.parsers import expat

from service.recordings.base import MALFORMED, MAX_ROW, RecordingError

FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
REFERENCE = re.compile(r"&#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}));")
DECLARATION = re.compile(r"<\?xml\s[^<>]*\?>|\ufeff")
ATTRIBUTE = re.compile(r"""([\w.:-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
OURS = "recording"
CUT_OFF = "cut off at the end of the file"


class Child(NamedTuple):
    """A child of a root, with its direct text; without a name, an error."""

    name: str
    attributes: dict[str, str]
    text: str


class LenientXml:
    """Finds all children of the roots. A child called `name` that cannot be parsed does not affect the next."""

    def __init__(self, file: str, name: str) -> None:
        self._file, self._name, self._end_tag = file, name, f"</{name}>"
        self._element = re.compile(
            rf"""<{name}\s((?:[^<>"']|"[^"]*"|'[^']*')*)>((?:(?!<{name}\s).)*)</{name}>\Z""", re.DOTALL
        )
        self._start_tag = f"<{name} "
        self._rest = ""
        self._is_in_prolog = True
        self._root: str | None = None
        self._children: list[Child] = []
        self._new(None)

    def feed(self, text: str) -> Iterator[Child]:
        """Yields the children that end in the text."""
        *pieces, self._rest = (self._rest + text).split(self._end_tag)
        for piece in pieces:
            yield from self._parse(piece + self._end_tag)
        if len(self._rest) > MAX_ROW:
            piece, self._rest = self._rest, ""
            yield from self._parse(piece)

    def close(self) -> Iterator[Child]:
        """Ends the file, with or without the root's closing tag; an incomplete child is dropped."""
        piece, self._rest = self._rest, ""
        yield from self._parse(piece)
        is_open = self._open.name == self._name
        try:
            self._expat.Parse("", True)
        except expat.ExpatError as error:
            is_open = is_open or error.code == expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN]
        if is_open:
            yield Child("", {}, CUT_OFF)

    def _parse(self, piece: str) -> list[Child]:
        if self._is_in_prolog:
            prolog, start, _ = piece.partition(self._start_tag)
            if "<!DOCTYPE" in prolog:
                raise RecordingError(
                    f"{self._file} has a document type declaration, which can hide attacks and which no recorder "
                    "writes; remove the file or the declaration"
                )
            self._is_in_prolog = not start
        piece = FORBIDDEN.sub("", piece)
        if "<?xml" in piece or "\ufeff" in piece:
            piece = DECLARATION.sub("", piece)
        if "&#" in piece:
            piece = REFERENCE.sub(_permit, piece)
        root = self._root if self._depth >= 1 and self._open_depth != 1 else None  # open before this piece
        try:
            self._expat.Parse(piece)
        except expat.ExpatError:
            self._recover(piece, root)
        children, self._children = self._children, []
        return children

    def _recover(self, piece: str, root: str | None) -> None:
        """Reads a piece that expat refuses: the element at its end by its tags, and the part before it again."""
        found = self._element.search(piece)
        self._new(root)
        if found is None:
            self._children.append(Child("", {}, MALFORMED))
            return
        self._children.clear()
        try:
            self._expat.Parse(piece[: found.start()])
        except expat.ExpatError:
            self._children.append(Child("", {}, MALFORMED))
            self._new(root or self._root)
        attributes = {name: html.unescape(one or two) for name, one, two in ATTRIBUTE.findall(found[1])}
        self._children.append(Child(self._name, attributes, html.unescape(found[2])))

    def _new(self, root: str | None) -> None:
        self._expat: Any = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.CharacterDataHandler = self._characters
        self._expat.EndElementHandler = self._end
        self._depth = -1
        self._open, self._open_depth = Child("", {}, ""), 0
        self._text = ""
        self._expat.Parse(f"<{OURS}>" + (f"<{root}>" if root else ""))

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and name != self._name:
            self._root = name
        elif self._depth == 1 or (
            self._depth == 2 and self._open_depth != 1
        ):  # 1: a danmaku without a root, as in the middle of a file
            self._open, self._open_depth, self._text = Child(name, attributes, ""), self._depth, ""

    def _characters(self, text: str) -> None:
        if self._depth == self._open_depth and len(self._text) < MAX_ROW:
            self._text += text

    def _end(self, name: str) -> None:
        if self._depth and self._depth == self._open_depth:
            self._children.append(self._open._replace(text=self._text))
            self._open, self._open_depth = Child("", {}, ""), 0
        self._depth -= 1


def _permit(reference: re.Match[str]) -> str:
    """Returns the character reference, or nothing if XML 1.0 forbids its character."""
    code = int(reference[1], 16) if reference[1] else int(reference[2])
    is_permitted = code in (9, 10, 13) or 0x20 <= code < 0xD800 or 0xE000 <= code < 0xFFFE or 0xFFFF < code < 0x110000
    return reference[0] if is_permitted else ""
