"""Detects the encoding of a file: by a byte order mark, else UTF-8, else by its XML declaration, else by
charset-normalizer, which chooses between GB18030 (with GBK and GB2312) and Big5.

A file with a few invalid bytes still counts as UTF-8, and lines with such bytes are dropped. A file that is mostly not
text is refused.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from service.recordings.base import HEAD_BYTES, RecordingError

CHUNK_BYTES = 1 << 16
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DECLARED = re.compile(rb"""^\s*<\?xml\s[^<>]*encoding=["']([\w.:-]+)["']""")
CANDIDATES = ["gb18030", "big5"]
NOT_FOR_FILES = ("idna", "punycode", "undefined")  # Python counts them among the encodings of text
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "cp936": "gb18030"}
ESCAPED = re.compile("[\udc80-\udcff]")
REPLACED = re.compile("\ufffd")
CONTROLS = bytes(each for each in range(32) if each not in (8, 9, 10, 12, 13, 27))
NEVER_TEXT = 0.01  # of the bytes of a text that are control characters
EXPECTED = "expected UTF-8, UTF-16 with a byte order mark, GB18030 or Big5; name another with --encoding"


@dataclass(frozen=True)
class Encoding:
    name: str
    is_clean: bool  # every byte was seen to be text

    @property
    def undecodable(self) -> re.Pattern[str] | None:
        """A pattern for the replacements of bytes that could not be decoded, or None."""
        if self.is_clean:
            return None
        return ESCAPED if self.name.startswith("utf-8") else REPLACED

    def decoder(self) -> codecs.IncrementalDecoder:
        if self.is_clean:
            return codecs.getincrementaldecoder(self.name)()
        return codecs.getincrementaldecoder(self.name)(
            "surrogateescape" if self.name.startswith("utf-8") else "replace"
        )


def detect(name: str, source: BinaryIO, encoding_name: str | None) -> Encoding:
    """Detects the encoding of a whole file. Raises RecordingError if most of it is not text."""
    head = source.read(HEAD_BYTES)
    found = _find_encoding(name, encoding_name) if encoding_name else _read_mark(head)
    is_given = found is not None
    encoding = found or "utf-8"
    if not is_given:
        _refuse_binary(name, head)
    if _is_clean(source, encoding):
        return Encoding(encoding, True)
    if is_given:
        _refuse_mostly_undecodable(name, head, encoding)
        return Encoding(encoding, False)
    sample = _sample(source)
    if (declared := DECLARED.match(head)) and (codec := _codec(declared[1].decode())) and _decodes(sample, codec):
        return Encoding(codec, _is_clean(source, codec))
    text = sample.decode("utf-8", "surrogateescape")
    escaped = len(ESCAPED.findall(text))
    # Chinese is three bytes in UTF-8, and other encodings seldom look like those by chance.
    if escaped <= sum(character >= "\u0800" for character in text) - escaped:
        return Encoding("utf-8", False)
    if guessed := _guess(sample):
        return Encoding(guessed, _is_clean(source, guessed))
    _refuse_mostly_undecodable(name, head, "utf-8")
    return Encoding("utf-8", False)


def detect_head(name: str, head: bytes, encoding_name: str | None) -> Encoding:
    """Detects the encoding from the beginning of a stream that cannot be read twice."""
    prefix = head.rpartition(b"\n")[0] or head
    is_wide = encoding_name is not None or _read_mark(head) is not None
    if not is_wide:
        _refuse_binary(name, head)  # only the first line of a picture looks like text
    encoding = detect(name, io.BytesIO(head if is_wide else prefix), encoding_name)
    return Encoding(encoding.name, False)


def decode(source: BinaryIO, encoding: Encoding) -> Iterator[str]:
    """Yields the text of a file from its beginning, in parts."""
    source.seek(0)
    decoder = encoding.decoder()
    while raw := source.read(CHUNK_BYTES):
        yield decoder.decode(raw)
    if rest := decoder.decode(b"", True):
        yield rest


def _find_encoding(name: str, encoding_name: str) -> str:
    if codec := _codec(encoding_name):
        return "utf-8-sig" if codec == "utf-8" else codec
    raise RecordingError(f"{name}: invalid encoding {encoding_name!r}; expected one such as gb18030 or big5")


def _codec(label: str) -> str | None:
    try:
        b"a".decode(label)  # a LookupError also for codecs that do not return text
        found = codecs.lookup(label).name
    except (LookupError, UnicodeError):
        return None
    return None if found in NOT_FOR_FILES else WIDER.get(found, found)


def _read_mark(head: bytes) -> str | None:
    return next((encoding for mark, encoding in MARKS if head.startswith(mark)), None)


def _is_clean(source: BinaryIO, encoding: str) -> bool:
    source.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while raw := source.read(CHUNK_BYTES):
            decoder.decode(raw)
        decoder.decode(b"", True)
    except UnicodeError:
        return False
    return True


def _sample(source: BinaryIO) -> bytes:
    """Returns the first lines with characters outside ASCII."""
    source.seek(0)
    lines: list[bytes] = []
    size = 0
    while size < HEAD_BYTES and (line := source.readline(HEAD_BYTES)):
        if not line.isascii():
            lines.append(line)
            size += len(line)
    return b"".join(lines)


def _guess(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=CANDIDATES).best()
    return best.encoding if best and best.encoding in CANDIDATES and _decodes(sample, best.encoding) else None


def _decodes(sample: bytes, encoding: str) -> bool:
    """Returns whether the sample can be decoded, except for its end, which may be cut, and one hundredth."""
    return sample.decode(encoding, "replace").count("\ufffd") <= 1 + len(sample) // 200


def _refuse_binary(name: str, head: bytes) -> None:
    controls = len(head) - len(head.translate(None, CONTROLS))
    is_markup = head.lstrip()[:1] == b"<"  # recorders remove the characters that XML forbids
    if not is_markup and controls > 2 + NEVER_TEXT * len(head) or (controls and not _is_mostly_text(head)):
        raise RecordingError(f"{name} is not text; {EXPECTED}")


def _is_mostly_text(head: bytes) -> bool:
    text = head.decode("utf-8", "surrogateescape")
    return len(ESCAPED.findall(text)) * 4 <= len(text)


def _refuse_mostly_undecodable(name: str, sample: bytes, encoding: str) -> None:
    text = sample.decode(encoding, "replace")
    lines = [line for line in text.split("\n") if line.strip()]
    if sum("\ufffd" in line for line in lines) * 2 > len(lines):
        raise RecordingError(f"{name}: most of it is not text in {encoding.removesuffix('-sig')}; {EXPECTED}")
