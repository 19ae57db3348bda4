"""The work file of `danmaku embed`, with the record of its progress beside it.

    X.npy.part        the rows written so far
    X.npy.part.json   how many of those bytes count, and which input and model they belong to

The work file is written before the progress file, which is replaced atomically. So after a crash the progress file
describes bytes that exist, and anything behind them is cut off. The input is identified by a hash of the bytes read so
far, which works for pipes and for files that have grown. The output appears, by renaming, when it is complete.
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

SAVE_EVERY_S = 1.0
READ_BYTES = 2**20


@dataclass(frozen=True)
class Progress:
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
    """A context manager; call `begin` first. Raises ConfigurationError if the output exists or is being written."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._path = output.with_name(output.name + ".part")
        self._progress_path = output.with_name(output.name + ".part.json")
        self._digest = hashlib.sha256()
        self._saved_at = 0.0
        self.progress: Progress | None = None

    def __enter__(self) -> Self:
        self._refuse_existing()
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            lock_file(self._file)
            self._refuse_existing()  # the last holder of the lock may have finished just now
        except BaseException as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise ConfigurationError(f"{self._path} is locked: another process is writing it") from None
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            if self.progress and self._path.exists():
                self._save_progress()
            elif not self.progress and not os.fstat(self._file.fileno()).st_size:
                self._path.unlink()  # nothing was written

    def _refuse_existing(self) -> None:
        if self._output.exists():
            raise ConfigurationError(f"{self._output} already exists; remove it, or choose another --output")

    def begin(self, start: Progress, head: bytes, source: BinaryIO) -> Progress:
        """Resumes an earlier run, after skipping the part of `source` that it read, or starts with `head`."""
        size = os.fstat(self._file.fileno()).st_size
        if not size:
            self.progress = start
            self._save_progress()  # before the first byte: a work file without it is not ours
            self._file.write(head)
            self.progress = replace(start, work_bytes=len(head))
            return self.progress
        progress = self._load_progress()
        self._check_same_run(progress, start, size)
        self._skip_input(source, progress)
        self._file.truncate(progress.work_bytes)
        self._file.seek(progress.work_bytes)
        if not progress.work_bytes:
            self._file.write(head)
            progress = replace(progress, work_bytes=len(head))
        self.progress = progress
        return progress

    def add(self, rows: bytes, raw: bytes, *, lines: int, truncated: int, error_types: list[str]) -> Progress:
        """Appends the rows of a block, which were made from the bytes `raw` of the input."""
        assert self.progress
        self._file.write(rows)
        self._digest.update(raw)
        errors = dict(self.progress.errors)
        for error_type in error_types:
            errors[error_type] = errors.get(error_type, 0) + 1
        self.progress = replace(
            self.progress,
            lines=self.progress.lines + lines,
            truncated=self.progress.truncated + truncated,
            errors=errors,
            work_bytes=self.progress.work_bytes + len(rows),
            input_bytes=self.progress.input_bytes + len(raw),
            input_sha256=self._digest.hexdigest(),
        )
        if time.monotonic() - self._saved_at > SAVE_EVERY_S:
            self._save_progress()
        return self.progress

    def finish(self, complete: Callable[[Path], Path]) -> None:
        """Renames the file that `complete` makes from the work file to the output."""
        self._save_progress()
        path = complete(self._path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(path, self._output)
        self._path.unlink(missing_ok=True)
        self._progress_path.unlink()

    def _save_progress(self) -> None:
        assert self.progress
        self._file.flush()
        os.fsync(self._file.fileno())  # or a power cut could leave the progress file ahead of the work file
        draft = self._progress_path.with_suffix(".tmp")
        draft.write_bytes(orjson.dumps(asdict(self.progress), option=orjson.OPT_INDENT_2))
        os.replace(draft, self._progress_path)
        self._saved_at = time.monotonic()

    def _load_progress(self) -> Progress:
        try:
            return Progress(**orjson.loads(self._progress_path.read_bytes()))
        except FileNotFoundError:
            raise ConfigurationError(
                f"{self._path} exists, but {self._progress_path.name} does not; remove or rename {self._path}"
            ) from None
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{self._progress_path} is damaged ({error}); {self._advice}") from None

    def _check_same_run(self, progress: Progress, start: Progress, size: int) -> None:
        if progress.fingerprint != start.fingerprint:
            raise ConfigurationError(
                f"{self._path} was started with {progress.model} (fingerprint {progress.fingerprint}), but this is "
                f"{start.model} (fingerprint {start.fingerprint}); use the same model, or {self._advice}"
            )
        if progress.normalize != start.normalize:
            option = "with" if progress.normalize else "without"
            raise ConfigurationError(f"{self._path} was started {option} --normalize; do the same, or {self._advice}")
        if size < progress.work_bytes:
            raise ConfigurationError(
                f"{self._path} is truncated: {size} bytes; expected {progress.work_bytes}; {self._advice}"
            )

    def _skip_input(self, source: BinaryIO, progress: Progress) -> None:
        left = progress.input_bytes
        while left and (chunk := source.read(min(left, READ_BYTES))):
            self._digest.update(chunk)
            left -= len(chunk)
        if left or self._digest.hexdigest() != progress.input_sha256:
            raise ConfigurationError(
                f"{self._path} was started with another input: its first {progress.lines} lines differ from this one; "
                f"pass the same input, or {self._advice}"
            )

    @property
    def _advice(self) -> str:
        return f"remove {self._path} to start over"
