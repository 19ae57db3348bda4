"""The flags of `danmaku worker`: their meaning, invalid values, and those without an effect."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from peers import client_status, peer
from processes import ROOT, free_ports, working

LENGTH = ("-max_seq_len", "12")


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    """A worker that is not expected to start."""
    command = [sys.executable, "-m", "service", "worker", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["-model_dir", "nowhere"], "nowhere is not a directory"),
        (["-model_dir", "MODEL", "-ckpt_name", "model.ckpt-9"], "model.ckpt-9.index does not exist; checkpoints in"),
        (["-model_dir", "MODEL", "-max_seq_len", "99"], "invalid max_seq_len: 99"),
        (["-model_dir", "MODEL", "-pooling_layer", "-9"], "invalid pooling_layer: [-9]"),
        (["-model_dir", "MODEL", *LENGTH, "-num_worker", "0"], "invalid -num_worker: 0; expected at least 1"),
        (["-model_dir", "MODEL", *LENGTH, "-port", "7", "-port_out", "7"], "7 is also -port"),
        (["-model_dir", "MODEL", *LENGTH, "-bind", "192.0.2.1"], "192.0.2.1"),
        (["-model_dir", "MODEL", *LENGTH, "-bind", "127.0.0.1", "-http_port", "PORT"], "port PORT for HTTP"),
        (["-model_dir", "MODEL", *LENGTH, "-metrics_port", "PORT"], "127.0.0.1 port PORT for metrics"),
    ],
)
def test_invalid_flags_are_a_one_line_error(tiny_model: Path, flags: list[str], line: str) -> None:
    port, *others = free_ports(3)
    names = {"MODEL": str(tiny_model), "PORT": str(port)}
    with socket.create_server(("127.0.0.1", port)):
        done = start("-port", str(others[0]), "-port_out", str(others[1]), *[names.get(flag, flag) for flag in flags])

    assert done.returncode == 1
    assert line.replace("PORT", str(port)) in done.stderr and "Traceback" not in done.stderr


def test_flags_without_an_effect_are_accepted_with_a_warning(tiny_model: Path) -> None:
    flags = ["-xla", "-fp16", "-gpu_memory_fraction", "0.7", "-device_map", "0", "1", "-prefetch_size", "5", "-cpu"]
    with working(tiny_model, *LENGTH, *flags) as worker, peer(worker) as it:
        assert it.encode(["草"]).shape == (1, 16)
        worker.process.terminate()
        log = worker.process.communicate(timeout=60)[1]

    assert all(f"{flag} has no effect" in log for flag in ("-xla", "-fp16", "-gpu_memory_fraction", "-device_map"))
    assert "-cpu" not in log
    assert f"serving {tiny_model.name} (fingerprint " in log
    ports = f"ports {worker.port} and {worker.port_out}"
    assert f"on 127.0.0.1, {ports}; pooling REDUCE_MEAN of layers [-2], max_seq_len 12" in log
    assert "only programs on this machine can connect; -bind 0.0.0.0 also accepts other machines" in log


def test_classic_mode_without_the_genuine_server_is_an_error() -> None:
    done = start("--classic", "-model_dir", "models/danmaku-bert-mini")

    assert done.returncode == 1 and "make classic" in done.stderr and "Traceback" not in done.stderr


def test_flags_mean_what_the_genuine_ones_mean(tiny_model: Path) -> None:
    """SHOW_CONFIG reports them under the genuine names."""
    flags = ["-pooling_layer", "-1", "-2", "-pooling_strategy", "FIRST_TOKEN", "-cased_tokenization", "-mask_cls_sep"]
    with working(tiny_model, *LENGTH, *flags, "-num_worker", "2", "-max_batch_size", "64") as worker:
        told = client_status(worker)
        with peer(worker) as it:
            assert it.encode(["草"]).shape == (1, 32)

    assert (told["pooling_layer"], told["pooling_strategy"]) == ([-1, -2], 4)
    assert (told["do_lower_case"], told["mask_cls_sep"], told["num_worker"]) == (False, True, 2)
    assert json.dumps(told)
