"""Files that are either whole or absent: written under a temporary name beside the target, then renamed.

Folders may lie in a bucket: `location` turns `gs://…` into something that behaves like a Path, over TensorFlow's own
file systems, and everything else into a Path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO, cast


@contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """A name to write to; renamed to `path` when the block ends well, removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file, UTF-8 with \\n, that takes its name when the block ends well."""
    with temporary_name(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yield cast(TextIO, file)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)


def location(text: str) -> Path:
    """The path that a user names, or the like of one for a URL such as gs://bucket/runs/mini."""
    return cast(Path, RemotePath(text)) if "://" in text else Path(text)


class RemotePath:
    """As much of pathlib.Path as this software uses, for what `tf.io.gfile` reaches.

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

    def iterdir(self) -> list[RemotePath]:
        return self.glob("*")

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
    """TensorFlow takes seconds to import, and is not needed for files of this machine."""
    import tensorflow as tf

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
