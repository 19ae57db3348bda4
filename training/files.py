"""Writes files that are either complete or absent: under a temporary name beside the target, then renamed.

Folders may be in a bucket: `parse_location` turns a URL such as `gs://…` into a RemotePath, which works over
TensorFlow's own file systems, and everything else into a Path. `etils.epath` would be a ready-made RemotePath, but it
accepts only the schemes gs, s3, az and hf (1.15): a run in `ram://`, which is how this is tested without a network,
and every other scheme of `tf.io.gfile` would be out of reach.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TextIO, cast


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """Yields a name to write to; renames it to `path` when the block succeeds, removes it when the block raises."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Yields a text file, UTF-8 with \\n, that is named `path` when the block succeeds."""
    with temporary_name(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yield cast(TextIO, file)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)


def check_writable(path: Path) -> None:
    """Makes the parent folder of a file; raises OSError, before any work is done, if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; expected a path in a writable folder") from None
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder; expected the path of a file")


def parse_location(text: str) -> Path:
    """Returns the Path that a user names, or a RemotePath for a URL such as gs://bucket/runs/mini."""
    return cast(Path, RemotePath(text)) if "://" in text else Path(text)


class RemotePath:
    """The part of pathlib.Path that this package uses, for any file system that `tf.io.gfile` reaches.

    Raises OSError where a Path would. A folder exists as soon as a file in it does.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __fspath__(self) -> str:
        return self._url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __lt__(self, other: RemotePath) -> bool:
        return self._url < other._url

    def __truediv__(self, name: str | RemotePath) -> RemotePath:
        return RemotePath(f"{self._url}/{name}")

    @property
    def name(self) -> str:
        return self._url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def suffix(self) -> str:
        return self.name.removeprefix(self.stem)

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self._url.rpartition("/")[0])

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.with_name(self.stem + suffix)

    def resolve(self) -> RemotePath:
        return self

    def exists(self) -> bool:
        with _as_os_error(self):
            return bool(_gfile().exists(self._url))

    def is_dir(self) -> bool:
        with _as_os_error(self):
            return bool(_gfile().isdir(self._url))

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        with _as_os_error(self):
            _gfile().makedirs(self._url)

    def glob(self, pattern: str) -> list[RemotePath]:
        with _as_os_error(self):
            return [RemotePath(url) for url in _gfile().glob(f"{self._url}/{pattern}")]

    def open(self, mode: str = "r", *, encoding: str = "utf-8", newline: str = "\n") -> IO[str]:
        with _as_os_error(self):
            return cast(IO[str], _gfile().GFile(self._url, mode))

    def read_bytes(self) -> bytes:
        with _as_os_error(self), _gfile().GFile(self._url, "rb") as file:
            return bytes(file.read())

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def replace(self, target: RemotePath) -> None:
        with _as_os_error(self):
            _gfile().rename(self._url, str(target), overwrite=True)

    def unlink(self, *, missing_ok: bool = False) -> None:
        if missing_ok and not self.exists():
            return
        with _as_os_error(self):
            _gfile().remove(self._url)


def _gfile() -> Any:
    import tensorflow as tf  # takes seconds to import, and local files do not need it

    return tf.io.gfile


@contextmanager
def _as_os_error(path: RemotePath) -> Iterator[None]:
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError:
        raise FileNotFoundError(2, "No such file", str(path)) from None
    except tf.errors.OpError as error:
        raise OSError(5, error.message, str(path)) from None
