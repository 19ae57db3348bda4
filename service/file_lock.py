"""Locks a file for one process at a time. The lock ends when the file is closed, even if the process is killed."""

from __future__ import annotations

import sys
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt

    # On Windows others cannot read locked bytes, so this is a byte that no file of ours reaches.
    LOCKED_BYTE = 2**31 - 2

    def lock_file(file: IO[Any]) -> None:
        """Raises BlockingIOError if another process has locked it."""
        position = file.tell()
        file.seek(LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
        finally:
            file.seek(position)

else:
    import fcntl

    def lock_file(file: IO[Any]) -> None:
        """Raises BlockingIOError if another process has locked it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
