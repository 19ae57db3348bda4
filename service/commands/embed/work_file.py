"""The work file of `danmaku embed`, and the note beside it that says how far it has come.

    X.npy.part        what is written so far
    X.npy.part.json   how much of that counts, and of which input and model it is

The file is written first and the note after it, by renaming; so whenever the process is killed, the note tells of
something that is there, and what follows it in the file is cut off. The input is known by a hash over what was read of
it: that holds for a pipe as well as for a file, which may have grown since. The output appears by renaming, when whole.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Self

import orjson

from service.errors import ConfigurationError
from service.file_lock import lock_file

NOTE_EVERY_S = 1.0
READ_BYTES = 2**20


@dataclass(frozen=True)
class Note:
    model: str
    fingerprint: str
    dim: int
    normalize: bool
    lines: int = 0
    truncated: int = 0
    errors: dict[str, int] = field(default_factory=dict)  # lines without a vector, by error_type
    work_bytes: int = 0
    input_bytes: int = 0
    input_sha256: str = hashlib.sha256().hexdigest()


class WorkFile:
    """A context manager; within it, `begin` first. Raises ConfigurationError if the output cannot be made here."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._path = output.with_name(output.name + ".part")
        self._note_path = output.with_name(output.name + ".part.json")
        self._digest = hashlib.sha256()
        self._noted_at = 0.0
        self.note: Note | None = None

    def __enter__(self) -> Self:
        self._refuse_existing()
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            lock_file(self._file)
            self._refuse_existing()  # whoever had the lock may have finished just now
        except BaseException as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise ConfigurationError(f"another process is writing {self._path}") from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            if self.note and self._path.exists():
                self._write_note()
            elif not self.note and not os.fstat(self._file.fileno()).st_size:
                self._path.unlink()  # nothing was begun

    def _refuse_existing(self) -> None:
        if self._output.exists():
            raise ConfigurationError(f"{self._output} exists already; remove it, or choose another --output")

    def begin(self, wanted: Note, head: bytes, source: BinaryIO) -> Note:
        """Goes on where an earlier run stopped, having read from `source` what that one read; or begins anew."""
        size = os.fstat(self._file.fileno()).st_size
        if not size:
            self.note = wanted
            self._write_note()  # before the first byte: a file without a note is not ours
            self._file.write(head)
            self.note = replace(wanted, work_bytes=len(head))
            return self.note
        note = self._read_note()
        self._compare(note, wanted, size)
        self._skip(source, note)
        self._file.truncate(note.work_bytes)
        self._file.seek(note.work_bytes)
        if not note.work_bytes:
            self._file.write(head)
            note = replace(note, work_bytes=len(head))
        self.note = note
        return note

    def add(self, rows: bytes, read: bytes, *, lines: int, truncated: int, error_types: list[str]) -> Note:
        """A block's rows, and the bytes of the input that they are of."""
        assert self.note
        self._file.write(rows)
        self._digest.update(read)
        errors = dict(self.note.errors)
        for error_type in error_types:
            errors[error_type] = errors.get(error_type, 0) + 1
        self.note = replace(
            self.note,
            lines=self.note.lines + lines,
            truncated=self.note.truncated + truncated,
            errors=errors,
            work_bytes=self.note.work_bytes + len(rows),
            input_bytes=self.note.input_bytes + len(read),
            input_sha256=self._digest.hexdigest(),
        )
        if time.monotonic() - self._noted_at > NOTE_EVERY_S:
            self._write_note()
        return self.note

    def finish(self, make_whole: Callable[[Path], Path]) -> None:
        self._write_note()
        whole = make_whole(self._path)
        with whole.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(whole, self._output)
        self._path.unlink(missing_ok=True)
        self._note_path.unlink()

    def _write_note(self) -> None:
        assert self.note
        self._file.flush()
        os.fsync(self._file.fileno())  # or a power cut could leave the note ahead of the file
        draft = self._note_path.with_suffix(".tmp")
        draft.write_bytes(orjson.dumps(asdict(self.note), option=orjson.OPT_INDENT_2))
        os.replace(draft, self._note_path)
        self._noted_at = time.monotonic()

    def _read_note(self) -> Note:
        try:
            return Note(**orjson.loads(self._note_path.read_bytes()))
        except FileNotFoundError:
            raise ConfigurationError(
                f"{self._path} is in the way: it has no {self._note_path.name} to say what it is. Remove or rename it"
            ) from None
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{self._note_path} is damaged ({error}); {self._anew}") from None

    def _compare(self, note: Note, wanted: Note, size: int) -> None:
        if note.fingerprint != wanted.fingerprint:
            raise ConfigurationError(
                f"{self._path} was begun with {note.model}, fingerprint {note.fingerprint}; this is {wanted.model}, "
                f"fingerprint {wanted.fingerprint}. Take the same model, or {self._anew}"
            )
        if note.normalize != wanted.normalize:
            how = "with" if note.normalize else "without"
            raise ConfigurationError(f"{self._path} was begun {how} --normalize; do the same, or {self._anew}")
        if size < note.work_bytes:
            raise ConfigurationError(f"{self._path} has {size} bytes of {note.work_bytes} that it had; {self._anew}")

    def _skip(self, source: BinaryIO, note: Note) -> None:
        left = note.input_bytes
        while left and (read := source.read(min(left, READ_BYTES))):
            self._digest.update(read)
            left -= len(read)
        if left or self._digest.hexdigest() != note.input_sha256:
            raise ConfigurationError(
                f"{self._path} was begun with another input: its first {note.lines} lines are not those of this one. "
                f"Give the same input, or {self._anew}"
            )

    @property
    def _anew(self) -> str:
        return f"remove {self._path} to begin anew"
