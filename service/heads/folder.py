"""Reads and writes the folder of a head.

    heads/spam/
      head.json     labels, the encoder it belongs to, its version
      weights.npz   the arrays of `Weights`
        report.json   its results on held-out texts
      README.md     the same for people

The name of the folder is the name of the head. A folder is read as a whole or refused: head.json has the version, a
hash of everything that affects scores, which a folder with files of two versions does not match.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import orjson

from service.errors import HeadError
from service.heads.head import Encoder, Head, Weights

DESCRIPTION, ARRAYS, REPORT, CARD = "head.json", "weights.npz", "report.json", "README.md"
FORMAT = 1
# The errors that orjson, NumPy, zipfile and zlib raise for damaged files.
DAMAGE = (ValueError, LookupError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
TYPES = {"vector": "<f4", "bias": "<f4", "buckets": "<u4", "ngrams": "<f2"}


def read_head(path: Path) -> Head:
    """Reads a folder. Raises HeadError that names it and the fault."""
    try:
        described = orjson.loads((path / DESCRIPTION).read_bytes())
        if (number := described["format"]) != FORMAT:
            raise ValueError(f"invalid format: {number}; expected {FORMAT}: a newer version of this software wrote it")
        with np.load(io.BytesIO((path / ARRAYS).read_bytes()), allow_pickle=False) as arrays:
            values = {name: arrays[name].astype(kind, casting="no") for name, kind in TYPES.items()}
        weights = Weights(**values, unseen=float(described["unseen"]), bits=int(described["bits"]))
        encoder = Encoder(**{**described["encoder"], "pooling_layer": tuple(described["encoder"]["pooling_layer"])})
        head = Head(described["labels"], encoder, weights)
        is_whole = len(head.labels) == len(weights.bias) and head.version == described["version"]
    except OSError as error:
        message = f"cannot read {error.filename or path}: {error.strerror}; expected the folder of a head"
        raise HeadError(message) from None
    except DAMAGE as error:
        raise HeadError(f"{path} is not a head: {error}; expected what `danmaku-train classify` writes") from None
    if not is_whole:
        raise HeadError(f"{path} is damaged: its files have different versions; retrain it")
    return head


def write_head(path: Path, head: Head, report: Mapping[str, object], card: str) -> None:
    """Writes a folder under a temporary name and renames it, replacing an older head.

    Raises HeadError, before anything is written, if something else is there.
    """
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        arrays = {name: getattr(head.weights, name).astype(kind) for name, kind in TYPES.items()}
        np.savez_compressed(temporary / ARRAYS, allow_pickle=False, **arrays)
        described = {
            "format": FORMAT,
            "version": head.version,
            "labels": head.labels,
            "encoder": asdict(head.encoder),
            "unseen": head.weights.unseen,
            "bits": head.weights.bits,
        }
        for name, content in ((DESCRIPTION, described), (REPORT, report)):
            (temporary / name).write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        (temporary / CARD).write_text(card, encoding="utf-8")
        if path.exists():  # a rename cannot replace a folder
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Raises HeadError if `path` exists and is not the folder of a head."""
    if path.exists() and not (path / DESCRIPTION).is_file():
        raise HeadError(f"invalid output: {path} exists without a {DESCRIPTION}; expected a head, or a new folder")
