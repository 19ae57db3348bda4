"""Reading TensorFlow's checkpoints without TensorFlow, against files that TensorFlow wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.checkpoint import read_checkpoint
from service.errors import ModelError

TENSORS = {
    "bert/embeddings/word_embeddings": np.random.default_rng(1).standard_normal((50, 8), np.float32),
    "bert/embeddings/LayerNorm/beta": np.zeros(8, np.float32),
    "bert/embeddings/LayerNorm/gamma": np.ones(8, np.float32),
    "global_step": np.array(12_000, np.int64),
    "half": np.array([[1.5, -2.5]], np.float16),
    "double": np.array([1e300]),
    "nothing": np.zeros((0, 3), np.float32),
    **{f"bert/encoder/layer_{i}/output/dense/bias": np.full(70, i, np.float32) for i in range(300)},
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the prefix of a checkpoint with 307 tensors, so that its index has several blocks; one is a string."""
    import tensorflow as tf

    prefix = tmp_path_factory.mktemp("checkpoint") / "model.ckpt-7"
    tensors = {**TENSORS, "name": np.array(b"aqua")}
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )
    return prefix


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    for file in written.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path / written.name


def test_every_tensor_is_read_as_it_was_written(written: Path) -> None:
    """Names, shapes, types and bits are equal; strings are skipped."""
    found = read_checkpoint(written)

    assert found.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert found[name].dtype == expected.dtype, name
        assert found[name].shape == expected.shape, name
        assert np.array_equal(found[name], expected), name


def test_a_damaged_tensor_is_detected(copy: Path) -> None:
    """One bit in 85 kB is flipped; the message names the tensor."""
    data = copy.with_name(copy.name + ".data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)

    with pytest.raises(ModelError, match=r"the bytes of bert/encoder/layer_\d+/output/dense/bias are damaged"):
        read_checkpoint(copy)


def test_a_truncated_file_is_detected(copy: Path) -> None:
    data = copy.with_name(copy.name + ".data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:1000])

    with pytest.raises(ModelError, match="damaged or cut off"):
        read_checkpoint(copy)


def test_any_damage_to_the_index_is_an_error(copy: Path) -> None:
    """Every 37th byte is changed in turn: there is never another exception and never a wrong tensor."""
    index = copy.with_name(copy.name + ".index")
    whole = index.read_bytes()
    for position in range(0, len(whole), 37):
        content = bytearray(whole)
        content[position] ^= 0xFF
        index.write_bytes(content)
        try:
            found = read_checkpoint(copy)
        except ModelError:
            continue
        # Padding and the empty metaindex are the only bytes that carry nothing.
        assert all(np.array_equal(found[name], TENSORS[name]) for name in TENSORS), position


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(200)])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.index").write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.index is not the index of a TensorFlow checkpoint"):
        read_checkpoint(tmp_path / "model")


def test_a_missing_file_is_named(copy: Path) -> None:
    copy.with_name(copy.name + ".data-00000-of-00001").unlink()

    with pytest.raises(ModelError, match=r"cannot read .*data-00000-of-00001: No such file"):
        read_checkpoint(copy)
