"""Finds the recordings in a folder.

These are the files with a format's suffix. A `.txt` may be anything, so it is read only if it is named, if it is
recognised as a format other than plain text, or if the folder has nothing else. Skipped files are listed with the
reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.recordings.base import Options, RecordingError
from service.recordings.recording import FORMATS, NOT_DANMAKU, SUFFIXES, name_of, open_recording

SEGMENT = "seg.so"  # other .so files are programs


@dataclass(frozen=True)
class Found:
    files: list[Path] = field(default_factory=list)
    left_out: list[tuple[Path, str]] = field(default_factory=list)  # with the reason


def find_files(paths: Sequence[Path], options: Options | None = None) -> Found:
    """Returns the named files and those in the named folders, folder by folder, better formats first.

    Raises RecordingError if there is none.
    """
    options, found, seen = options or Options(), Found(), set[Path]()
    for path in paths:
        if not path.exists():
            raise RecordingError(f"{path} does not exist")
        files = _in_folder(path, options, found) if path.is_dir() else [path]
        for file in files:
            if (resolved := file.resolve()) not in seen:
                seen.add(resolved)
                found.files.append(file)
    if not found.files:
        left_out = "".join(f"; left out: {path}, {reason}" for path, reason in found.left_out[:3])
        raise RecordingError(
            f"no recording under {', '.join(map(str, paths))}: expected files that end in "
            f"{', '.join(SUFFIXES)}{left_out}"
        )
    return found


def without_copies(files: Iterable[Path]) -> Found:
    """Returns the files, except those whose recording is in the same folder in a better format."""
    found, first = Found(), dict[tuple[Path, str], Path]()
    for file in files:
        better = first.setdefault((file.parent, name_of(file)), file)
        if better is file:
            found.files.append(file)
        else:
            found.left_out.append((file, f"the same recording as {better.name}"))
    return found


def _in_folder(folder: Path, options: Options, found: Found) -> list[Path]:
    files = [path for path in folder.rglob("*") if _has_suffix(path, options.format) and path.is_file()]
    files.sort(key=lambda path: (path.parent, FORMATS.index(SUFFIXES[path.suffix.lower()]), path.name))
    texts = [path for path in files if path.suffix.lower() == ".txt"]
    if options.format is None:
        is_alone = len(texts) == len(files)
        out = {path: reason for path in texts if (reason := _why_not(path, options, is_alone=is_alone))}
        found.left_out.extend(out.items())
        files = [path for path in files if path not in out]
    return files


def _has_suffix(path: Path, kind: str | None) -> bool:
    suffix = path.suffix.lower()
    if path.name.startswith(".") or (suffix == ".so" and not path.name.lower().endswith(SEGMENT)):
        return False
    return suffix in SUFFIXES and (kind is None or SUFFIXES[suffix] == kind or kind == "day" and suffix == ".txt")


def _why_not(path: Path, options: Options, *, is_alone: bool) -> str | None:
    if NOT_DANMAKU.fullmatch(path.name):
        return "not a recording by its name"
    if is_alone:
        return None
    try:
        is_text = open_recording(path, options).format == "text"
    except RecordingError as error:
        return str(error)
    return "plain text beside recordings: name the file to have it read" if is_text else None
