"""An exported model is complete, exact and under Google's names; a failure leaves the old one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from tokenizers import Tokenizer

from service.checkpoint import read_checkpoint
from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions
from service.model_directory import BertConfig, find_checkpoint, open_model_directory
from training.bert import checkpoint
from training.bert.export import export
from training.bert.model import variable_shapes
from training.cli import main

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def own(workdir: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may damage."""
    return shutil.copytree(workdir, tmp_path / "own")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_model_directory_has_what_a_reader_needs_and_no_more(workdir: Path, tmp_path: Path) -> None:
    """The returned prefix is the one that TensorFlow finds."""
    prefix = export(workdir, tmp_path / "models/tiny")
    assert set(contents(tmp_path / "models/tiny")) == {
        "bert_config.json",
        "vocab.txt",
        "checkpoint",
        "model.ckpt-20.index",
        "model.ckpt-20.data-00000-of-00001",
    }
    assert tf.train.latest_checkpoint(str(tmp_path / "models/tiny")) == str(prefix)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
    assert (tmp_path / "models/tiny/checkpoint").read_text(encoding="utf-8") == (
        'model_checkpoint_path: "model.ckpt-20"\nall_model_checkpoint_paths: "model.ckpt-20"\n'
    )


def test_the_tensors_are_those_of_the_run_bit_for_bit(workdir: Path, tmp_path: Path) -> None:
    """They have the names of google-research/bert, and the file has nothing else."""
    found = read_checkpoint(export(workdir, tmp_path / "tiny"))
    assert set(found) == set(variable_shapes(BertConfig.from_json_file(workdir / "bert_config.json")))
    run = read_checkpoint(workdir / "model.ckpt-20")
    assert all(found[name].tobytes() == run[name].tobytes() for name in found)


def test_the_directory_may_be_moved(workdir: Path, tmp_path: Path) -> None:
    """The paths in it are relative."""
    export(workdir, tmp_path / "tiny")
    (tmp_path / "tiny").rename(tmp_path / "moved")
    assert find_checkpoint(tmp_path / "moved") == tmp_path / "moved/model.ckpt-20"
    assert open_model_directory(tmp_path / "moved").name == "moved"


def test_an_earlier_step_can_be_exported(workdir: Path, tmp_path: Path) -> None:
    """Step 0 is the untrained model, for comparison."""
    first = read_checkpoint(export(workdir, tmp_path / "before", step=0))
    run = read_checkpoint(workdir / "model.ckpt-0")
    assert all(np.array_equal(first[name], run[name]) for name in run)


def test_a_missing_step_is_an_error_that_lists_the_steps(workdir: Path, tmp_path: Path) -> None:
    """Nothing is written."""
    with pytest.raises(ValueError, match="invalid step: 7; .* has 0, 10, 20"):
        export(workdir, tmp_path / "tiny", step=7)
    assert not (tmp_path / "tiny").exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        export(tmp_path, tmp_path / "tiny")


def spoil(workdir: Path, **changes: np.ndarray | None) -> None:
    """Rewrites the newest checkpoint with other tensors; None leaves one out."""
    tensors = {**read_checkpoint(workdir / "model.ckpt-20"), **changes}
    checkpoint.write(workdir / "model.ckpt-20", {name: v for name, v in tensors.items() if v is not None})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(own: Path, tmp_path: Path, value: float) -> None:
    """One such number makes every vector NaN."""
    bias = np.zeros(32, np.float32)
    bias[3] = value
    spoil(own, **{"bert/pooler/dense/bias": bias})
    with pytest.raises(ValueError, match="bert/pooler/dense/bias is not finite"):
        export(own, tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [(None, "has no variable"), (np.zeros(31, np.float32), r"\[31\]; expected \[32\]")],
)
def test_a_variable_that_does_not_fit_the_config_is_refused_by_name(
    own: Path, tmp_path: Path, change: np.ndarray | None, message: str
) -> None:
    """It may be missing or have another shape."""
    spoil(own, **{"bert/pooler/dense/bias": change})
    with pytest.raises(ValueError, match=message) as error:
        export(own, tmp_path / "tiny")
    assert "bert/pooler/dense/bias" in str(error.value)


def test_a_truncated_checkpoint_is_refused(own: Path, tmp_path: Path) -> None:
    """A full disk or an interrupted copy leaves one."""
    data = own / "model.ckpt-20.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or cut off"):
        export(own, tmp_path / "tiny")


def test_a_vocabulary_of_another_size_is_refused(own: Path, tmp_path: Path) -> None:
    """The error has both numbers."""
    with (own / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("龘\n")
    with pytest.raises(ValueError, match=r"has \d+ tokens, but its configuration says vocab_size \d+"):
        export(own, tmp_path / "tiny")


def test_an_older_model_is_replaced_whole_except_for_its_card(workdir: Path, tmp_path: Path) -> None:
    """Files derived from the old weights are removed; the file that a person wrote stays."""
    output = tmp_path / "tiny"
    export(workdir, output, step=0)
    (output / "README.md").write_text("a card", encoding="utf-8")
    (output / "model.onnx").write_text("of the old weights", encoding="utf-8")
    export(workdir, output)
    names = set(contents(output))
    assert "model.ckpt-20.index" in names and "README.md" in names
    assert "model.ckpt-0.index" not in names and "model.onnx" not in names
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_directory_that_is_no_model_is_not_replaced(workdir: Path, own: Path, tmp_path: Path) -> None:
    """A misspelt --output must not destroy other files, least of all a training run."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("…", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a model directory"):
        export(workdir, precious)
    assert set(contents(precious)) == {"thesis.txt"}
    with pytest.raises(ValueError, match="is the workdir of a run"):
        export(own, own)
    with pytest.raises(ValueError, match="is a file"):
        export(workdir, precious / "thesis.txt")


def test_an_export_that_is_killed_leaves_the_old_model(workdir: Path, tmp_path: Path) -> None:
    """SIGKILL after the new checkpoint is written and before it takes its place."""
    output = tmp_path / "tiny"
    export(workdir, output, step=0)
    before = contents(output)
    program = f"""
import os, signal
from pathlib import Path
from training.bert import checkpoint, export
checkpoint.mark_latest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
export.export(Path({str(workdir)!r}), Path({str(output)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL
    assert contents(output) == before
    assert len(list(tmp_path.iterdir())) == 2  # the scraps have a hidden name and do not stand in the way:
    export(workdir, output)
    assert find_checkpoint(output).name == "model.ckpt-20"


TEXTS = ["草", "阿夸awsl!", "晚安 晚安", "哈" * 40]


def encode(directory: Path) -> np.ndarray:
    with closing(OnnxEncoder.open(directory, EncoderOptions(), threads=1)) as encoder:
        return encoder.encode_now(encoder.inputs.prepare_texts(TEXTS))


def test_in_hugging_face_s_layout_the_vectors_are_the_same(tiny_model: Path, tmp_path: Path) -> None:
    """Whoever opens it takes the last layer, so the one above the pooled layer is left out."""
    output = export(None, tmp_path / "tiny", model=tiny_model, layout="huggingface")

    assert {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} == {
        *("README.md", "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json"),
        *("1_Pooling/config.json", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    }
    assert open_model_directory(output).config.num_hidden_layers == 2
    assert np.array_equal(encode(output), encode(tiny_model))
    (output / "vocab.txt").unlink()
    (output / "tokenizer_config.json").unlink()
    assert np.array_equal(encode(output), encode(tiny_model))


def test_what_the_model_says_of_itself_comes_along(workdir: Path, tmp_path: Path) -> None:
    """The lengths to which vectors may be cut; and a README.md and a licence, which a person wrote."""
    model = export(workdir, tmp_path / "model").parent
    config = json.loads((model / "bert_config.json").read_text(encoding="utf-8"))
    (model / "bert_config.json").write_text(json.dumps(config | {"matryoshka_dimensions": [8]}), encoding="utf-8")
    (model / "README.md").write_text("mine", encoding="utf-8")
    (model / "LICENSE").write_text("MIT", encoding="utf-8")

    output = export(None, tmp_path / "hf", model=model, layout="huggingface")

    assert json.loads((output / "config.json").read_text(encoding="utf-8"))["matryoshka_dimensions"] == [8]
    assert (output / "README.md").read_text(encoding="utf-8") == "mine"
    assert (output / "LICENSE").read_text(encoding="utf-8") == "MIT"


def test_an_onnx_file_takes_padded_tokens(tiny_model: Path, tmp_path: Path) -> None:
    path = export(None, tmp_path / "tiny.onnx", model=tiny_model, layout="onnx")
    export(None, tmp_path / "hf", model=tiny_model, layout="huggingface")
    tokenizer = Tokenizer.from_file(str(tmp_path / "hf/tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(TEXTS)

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": np.array([text.ids for text in found]),
        "attention_mask": np.array([text.attention_mask for text in found]),
    }
    (vectors,) = session.run(["sentence_embedding"], feed)

    np.testing.assert_allclose(vectors, encode(tiny_model), atol=1e-5)


def test_other_formats_are_written_without_tensorflow(tiny_model: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['tensorflow'] = None; from training.cli import main; sys.exit(main(sys.argv[1:]))"
    flags = ["--model", str(tiny_model), "--format", "huggingface", "--output", str(tmp_path / "hf")]
    done = subprocess.run(
        [sys.executable, "-c", code, "export", *flags], cwd=REPOSITORY, capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert open_model_directory(tmp_path / "hf").config.hidden_size == 16


def test_what_is_neither_a_file_nor_a_model_is_not_overwritten(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    flags = ["export", "--model", str(tiny_model), "--output"]

    assert main([*flags, str(tmp_path / "file"), "--format", "huggingface"]) == 2
    assert "is a file; expected a directory" in capsys.readouterr().err
    assert main([*flags, str(tmp_path), "--format", "onnx"]) == 2
    assert "is a directory; expected a file" in capsys.readouterr().err
