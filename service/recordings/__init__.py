"""Reads files of recorded danmaku with one function: `open_recording(path).rows()`.

    file ─▶ decoding: which encoding ─▶ recording: which format ─▶ a parser of that format ─▶ rows ─▶ documents

A file is either recognised with certainty or refused with a reason. A row has a text, the second of the video or the
time of posting, and nothing about its writer; anything that is not a danmaku is a row with a reason. docs/recordings.md
lists the formats.
"""

from service.recordings.base import NOT_TEXT, UNREADABLE, Options, RecordingError, Row
from service.recordings.recording import FORMATS, SUFFIXES, Recording, RecordingFeed, name_of, open_recording

__all__ = [
    "FORMATS",
    "NOT_TEXT",
    "SUFFIXES",
    "UNREADABLE",
    "Options",
    "Recording",
    "RecordingError",
    "RecordingFeed",
    "Row",
    "name_of",
    "open_recording",
]
