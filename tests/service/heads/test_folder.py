"""The folder of a head is read completely, or refused with its name and the reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.errors import HeadError
from service.heads.folder import read_head, write_head
from service.heads.head import Encoder, Head, Weights, to_probabilities

ENCODER = Encoder("tiny", "f0", (-2,), "REDUCE_MEAN")


def make_head(bias: float = 0.0, labels: tuple[str, ...] = ("no", "yes")) -> Head:
    """Says yes to vectors that point up."""
    vector = np.zeros((2, len(labels)), np.float32)
    vector[1, 1] = 2.0
    none = np.zeros((0, len(labels) + 1), np.float16)
    biases = np.zeros(len(labels), np.float32)
    biases[1] = bias
    return Head(labels, ENCODER, Weights(vector, biases, np.zeros(0, np.uint32), none, unseen=1.0, bits=8))


def test_reading_restores_what_was_written(tmp_path: Path) -> None:
    head = make_head(0.25)
    write_head(tmp_path / "spam", head, {"any": "figures"}, "# spam\n")
    read = read_head(tmp_path / "spam")
    vectors = np.array([[1.0, 0.0], [0.0, 9.0]], np.float32)

    assert (read.version, read.labels, read.encoder) == (head.version, head.labels, head.encoder)
    assert np.array_equal(read.score(["草", "哈"], vectors), [[0.0, 0.25], [0.0, 2.25]])  # of vectors of length 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["spam"]


def test_a_newer_head_replaces_an_older_one(tmp_path: Path) -> None:
    for bias in (0.0, 1.0):
        write_head(tmp_path / "spam", make_head(bias), {}, "")

    assert read_head(tmp_path / "spam").version == make_head(1.0).version != make_head(0.0).version


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(HeadError, match="expected a head, or a new folder"):
        write_head(tmp_path, make_head(), {}, "")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def flip_bits(content: bytes) -> bytes:
    """Damages the compressed bytes of the arrays, so that zlib cannot read them."""
    return content[:100] + bytes(byte ^ 0xFF for byte in content[100:160]) + content[160:]


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("head.json", lambda content: content.replace(b'"yes"', b'"maybe"'), "different versions"),
        ("head.json", lambda content: content.replace(b'"format": 1', b'"format": 2'), "invalid format: 2"),
        ("head.json", lambda content: content[:-20], "is not a head"),
        ("weights.npz", lambda content: content[:-40], "is not a head"),
        ("weights.npz", lambda content: b"", "is not a head"),
        ("weights.npz", flip_bits, "is not a head"),
        ("head.json", lambda content: content.replace(b'"version"', b'"revision"'), "is not a head: 'version'"),
        ("head.json", lambda content: json.dumps(json.loads(content) | {"bits": 40}).encode(), "invalid bits: 40"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, change, fault: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "spam"
    write_head(path, make_head(), {}, "")
    file = path / name
    file.write_bytes(change(file.read_bytes()))

    with pytest.raises(HeadError, match=fault) as refused:
        read_head(path)
    assert str(path) in str(refused.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="spam/head.json: No such file.*expected the folder of a head"):
        read_head(tmp_path / "spam")


def test_probabilities_add_up_to_one_whatever_the_scores() -> None:
    found = to_probabilities(np.array([[1000.0, 0.0, -1000.0], [3.0, 3.0, 3.0]]))

    assert np.allclose(found.sum(1), 1) and np.isfinite(found).all()
    assert to_probabilities(np.zeros((0, 2))).shape == (0, 2)
