"""`danmaku-train classify --tune`: a file of labelled texts becomes a model of its own, with its head."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from labelled import write_labelled
from processes import serving

from service.encoders.options import EncoderOptions
from service.heads.folder import read_head
from service.model_directory import open_model_directory
from training.arguments import STOPPED
from training.cli import main
from training.heads import tuning
from training.heads.classify import describe_encoder


@pytest.fixture(scope="module", autouse=True)
def few_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "RATES", (2e-3,))
        patch.setattr(tuning, "BATCH_SIZE", 8)
        yield


@pytest.fixture(scope="module")
def folder(few_runs: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that was tuned without interruption."""
    folder = tmp_path_factory.mktemp("tuned")
    assert tune(tiny_model, folder, "question") == 0
    return folder


def tune(tiny_model: Path, folder: Path, name: str, *, workdir: str = "", texts: int = 20) -> int:
    path = write_labelled(folder / f"{name}.csv", texts)
    flags = ["--input", str(path), "--model", str(tiny_model), "--output", str(folder / name)]
    return main(["classify", *flags, "--tune", str(folder / (workdir or f"run-{name}"))])


def test_a_tuned_model_is_served_with_its_head(folder: Path, tiny_model: Path) -> None:
    output = folder / "question"
    head_folder = output / "heads/question"
    head, report = read_head(head_folder), json.loads((head_folder / "report.json").read_text("utf-8"))
    with serving("--heads", str(head_folder), model=f"onnx://{output}") as (http, _):
        body = http.post("/classify", json={"texts": ["他是谁", "晚安哈哈"]}).raise_for_status().json()

    assert [result["question"]["label"] for result in body["results"]] == ["question", "other"]
    assert head.encoder == describe_encoder(output, EncoderOptions())
    assert head.encoder.fingerprint != describe_encoder(tiny_model, EncoderOptions()).fingerprint
    assert (report["kind"], report["learned"], report["test"]["texts"]) == ("tuned", 32, 8)
    assert report["serve"] == f"danmaku serve --encoder onnx://{output} --heads {head_folder}"
    assert report["tuned"]["0.002"][1] < report["tuned"]["0.002"][0]


def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_is_not(
    folder: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_steps = tuning.compile_steps

    def stop_within_the_second_epoch(*args: object, **kwargs: object) -> object:
        run_steps = compile_steps(*args, **kwargs)

        def run(first: int, count: int) -> object:
            if first == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return run_steps(first, count)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "compile_steps", stop_within_the_second_epoch)
        assert tune(tiny_model, folder, "resumed") == STOPPED
    assert not (folder / "resumed").exists()
    assert tune(tiny_model, folder, "resumed") == 0

    whole, resumed = (open_model_directory(folder / name).weights for name in ("question", "resumed"))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, resumed[name], err_msg=name)


def test_a_workdir_of_other_texts_is_refused(
    folder: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(tiny_model, folder, "other", workdir="run-question", texts=12) == 2
    assert "the inputs are different" in capsys.readouterr().err
