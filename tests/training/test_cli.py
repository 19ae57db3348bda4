"""The command: help is instant and has examples, mistakes are one line and status 2, the whole pipeline works."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from processes import serving

from service import __version__
from training.cli import main, make_parser

REPOSITORY = Path(__file__).parents[2]
COMMANDS = ("clean", "examples", "train", "evaluate", "export", "visualise", "tpu-check")


def python(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, REPOSITORY)))}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # conftest.py sets it
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_a_valid_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The example is on a line of its own."""
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    example = re.search(rf"^example:\n  danmaku-train ({command} .+)$", capsys.readouterr().out, re.MULTILINE)
    assert example is not None
    make_parser().parse_args(example[1].split())


def test_help_names_every_command_without_tensorflow() -> None:
    """Importing TensorFlow takes seconds."""
    result = python(
        "import sys\nfrom training.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'tensorflow', 'numpy', 'tokenizers'} & set(sys.modules)"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert all(command in result.stdout for command in COMMANDS)


def test_clean_needs_no_tensorflow(danmaku: Path, tmp_path: Path) -> None:
    """It works where only the service is installed."""
    arguments = ["clean", "--input", str(danmaku), "--output", str(tmp_path), "--vocab-size", "300"]
    result = python(
        f"import sys\nfrom training.cli import main\nassert main({arguments!r}) == 0\n"
        "assert 'tensorflow' not in sys.modules"
    )
    assert result.returncode == 0, result.stderr
    assert "dropped files, duplicate: 0" in result.stdout.splitlines()
    assert "documents read: 12" in result.stdout.splitlines()


def test_tensorflow_logs_nothing_before_the_error() -> None:
    """Its lines about missing drivers look like a failure on a machine without a GPU."""
    result = python(
        "import sys\nfrom training.cli import main\nsys.exit(main(['export', '--workdir', 'x', '--output', 'y']))"
    )
    assert result.returncode == 2
    assert result.stderr.startswith("danmaku-train: error: no checkpoint in x") and result.stderr.count("\n") == 1


def test_the_version_is_that_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"{__version__}\n")


@pytest.mark.parametrize(("unspellable", "is_warned"), [(3, True), (2, False)])
def test_clean_warns_when_over_a_tenth_of_the_lines_is_unspellable(
    unspellable: int, is_warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One row among twenty is easily overlooked."""
    vocab, danmaku = tmp_path / "vocab.txt", tmp_path / "danmaku.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n草\n", encoding="utf-8")
    danmaku.write_text("草\n" * (20 - unspellable) + "龘\n" * unspellable, encoding="utf-8")
    assert main(["clean", "--input", str(danmaku), "--vocab", str(vocab), "--output", str(tmp_path / "corpus")]) == 0
    warning = "warning: 15% of the lines were dropped because the vocabulary of 6 tokens cannot spell them"
    assert (warning in capsys.readouterr().err) == is_warned


def test_without_tensorflow_the_error_says_what_to_install(tmp_path: Path) -> None:
    """It is one line without a traceback."""
    missing = "raise ModuleNotFoundError(\"No module named 'tensorflow'\", name='tensorflow')\n"
    (tmp_path / "tensorflow.py").write_text(missing, encoding="utf-8")
    result = python(
        "import sys\nfrom training.cli import main\nsys.exit(main(['export', '--workdir', 'x', '--output', 'y']))",
        tmp_path,
    )
    assert result.returncode == 2
    assert result.stderr == (
        "danmaku-train: error: tensorflow is not installed: make install-dev, or pip install --editable '.[training]'\n"
    )


def test_from_recorded_danmaku_to_ranked_danmaku(
    danmaku: Path, tiny_toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands are those of training/README.md, in order; examples are in the workdir by default. What they export
    is served.
    """
    corpus, run = tmp_path / "corpus", tmp_path / "run"

    def command(line: str) -> list[str]:
        assert main([str(part) for part in line.split()]) == 0
        return capsys.readouterr().out.splitlines()

    cleaned = command(f"clean --input {danmaku} --output {corpus} --vocab-size 300 --heldout 0.2")
    assert "kept, train, documents: 9" in cleaned
    made = command(f"examples --input {corpus} --output {run / 'examples'} --max-seq-length 32")
    assert any(re.fullmatch(r"examples, train: \d+", line) for line in made)
    assert "settings, max seq length: 32" in made
    trained = command(f"train {tiny_toml} --workdir {run} --set steps_per_loop=4 --set model.initializer_range=0.03")
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["config"]
    assert (settings["steps_per_loop"], settings["model"]["initializer_range"]) == (4, 0.03)
    assert trained == [f"{run / 'model.ckpt-20'}: finished"]
    command(f"export --workdir {run} --output {tmp_path / 'before'} --step 0")
    exported = command(f"export --workdir {run} --output {tmp_path / 'after'}")
    assert exported == [str(tmp_path / "after/model.ckpt-20")]
    models = f"--model {tmp_path / 'before'} --model {tmp_path / 'after'}"
    numbers = tmp_path / "numbers.json"
    options = f"--json {numbers} --markdown {tmp_path / 'numbers.md'} --max-examples 20"
    printed = command(f"evaluate {models} --corpus {corpus} {options}")
    assert [line.split("|")[1].strip() for line in printed[2:6]] == [
        f"{model}, {split} set" for model in ("before", "after") for split in ("training", "held-out")
    ]
    assert (tmp_path / "numbers.md").read_text(encoding="utf-8").splitlines() == printed
    rows = json.loads(numbers.read_text(encoding="utf-8"))
    assert [row["examples"] for row in rows] == [20] * 4
    assert rows[2]["masked_lm_loss"] < math.log(300) - 0.1  # it knows more than how many tokens there are

    lines = [line for line in (corpus / "train.txt").read_text(encoding="utf-8").split("\n") if line][:20]
    moved = shutil.move(tmp_path / "after", tmp_path / "moved")  # a model is a folder
    with serving(model=f"onnx://{moved}") as (client, _):
        embedded = client.post("/embed", json={"texts": lines, "normalize": True}).json()
        similar = client.post("/similar", json={"query": lines[0], "candidates": lines}).json()
    vectors = np.array(embedded["embeddings"], np.float32)
    assert (embedded["model"], vectors.shape, embedded["errors"]) == ("moved", (len(lines), 32), [])
    matches = similar["results"][0]["matches"]
    assert matches[0]["text"] == lines[0]
    assert np.allclose([match["score"] for match in matches], np.sort(vectors @ vectors[0])[::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("clean --input nowhere --output out", "nowhere does not exist"),
        ("clean --input . --output out --heldout 2", "invalid heldout: 2.0; expected a share from 0 to below 1"),
        ("clean --input . --vocab missing.txt --output out", "missing.txt"),
        ("clean --input . --output out --shard 0/8", "no vocabulary for shard 0/8; expected --vocab"),
        ("clean --input . --output out --shard 8/8", "invalid shard: 8/8; expected I/N with I from 0 to N - 1"),
        ("clean --input . --output out --session-gap-s 0", "invalid session_gap_s: 0.0"),
        (
            "examples --input nowhere --output out",
            "no report.json in nowhere; expected a folder written by",
        ),
        ("examples --input nowhere --output out --max-seq-length 3", "invalid max_seq_length: 3; expected at least 5"),
        ("train missing.toml --workdir run", "missing.toml"),
        ("train wrong.toml --workdir run", "wrong.toml: unknown setting steps"),
        ("train good.toml --workdir run --set steps=3", "--set steps=3: unknown setting steps"),
        ("train good.toml --workdir run --tpu", "no TPU 'local' found; omit --tpu to train on GPU or CPU"),
        (
            "train good.toml --workdir run",
            "no examples.json in run/examples; expected a folder written by `danmaku-train examples`",
        ),
        ("evaluate --model nowhere --corpus .", "nowhere is not a directory"),
        ("export --workdir nowhere --output out", "no checkpoint in nowhere"),
        (
            "visualise --model nowhere --output words.jpg",
            "invalid output: words.jpg; expected a name that ends in",
        ),
        ("clean --input 1.csv --output 1.csv/corpus", "cannot write 1.csv/corpus/report.json: Not a directory"),
        ("evaluate --model nowhere --corpus . --json 1.csv/numbers.json", "cannot write 1.csv/numbers.json"),
        ("visualise --model nowhere --output 1.csv/words.png", "cannot write 1.csv/words.png"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """There is no traceback, and no file is left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text("steps = 3", encoding="utf-8")
    (tmp_path / "good.toml").write_text("", encoding="utf-8")
    (tmp_path / "1.csv").write_text("草,1,2019-01-01 00:00:00\n", encoding="utf-8")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("danmaku-train: error: ") and error.count("\n") == 1
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("arguments", ["", "teach", "clean --output out", "train", "examples --seed x"])
def test_invalid_arguments_are_status_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 2
    assert "danmaku-train" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors that users can fix are one line."""
    from training.corpus import clean

    monkeypatch.setattr(clean, "clean", None)
    with pytest.raises(TypeError):
        main(["clean", "--input", ".", "--output", "out"])


def test_the_kubernetes_job_gives_each_pod_its_shard() -> None:
    """The command accepts its arguments, and every shard has a pod."""
    job = yaml.safe_load((REPOSITORY / "k8s/clean-job.yaml").read_text(encoding="utf-8"))["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert (job["completionMode"], container["command"]) == ("Indexed", ["danmaku-train"])
    shards = []
    for index in range(job["completions"]):
        line = [part.replace("$(JOB_COMPLETION_INDEX)", str(index)) for part in container["args"]]
        shards.append(make_parser().parse_args(line).shard)
    assert shards == [f"{index}/8" for index in range(8)]
    assert f"--jobs={container['resources']['limits']['cpu']}" in container["args"]
