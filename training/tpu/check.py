"""Lowers and compiles the step of a config for a TPU topology, and reports the memory of a core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.config import TrainConfig

GIB = 2**30
ROOT = Path(__file__).parents[2]
ENVIRONMENT = ".venv-tpu"  # beside .venv; `make tpu-check` makes it
# Devices, and GiB of memory that a program may use on each, as the compiler reports when it rejects one. Up to v3, each
# of the two cores of a chip is a device.
TOPOLOGIES = {"v3:2x2": (8, 15.48)}
# Without these, libtpu spends minutes asking the cloud which TPU this machine is.
NO_MACHINE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}


@dataclass(frozen=True)
class Verdict:
    """The compiler's verdict on one program, in GiB per core; `refused` is its reason if it did not compile."""

    program: str
    usable: float
    arguments: float = 0.0  # weights, moments, batch
    temporaries: float = 0.0
    refused: str | None = None

    @property
    def total(self) -> float:
        return self.arguments + self.temporaries

    @property
    def fits(self) -> bool:
        return self.refused is None and self.total <= self.usable

    def __str__(self) -> str:
        if self.refused is not None:
            return f"{self.program}: refused: {self.refused}"
        return (
            f"{self.program}: compiles\n"
            f"memory of a core: arguments {self.arguments:.2f} + temporaries {self.temporaries:.2f} = {self.total:.2f} "
            f"GiB of {self.usable} GiB: {'fits' if self.fits else 'does not fit'}"
        )


def tpu_check(
    config: TrainConfig, *, topology: str, vocab_size: int, max_seq_length: int, max_predictions_per_seq: int
) -> Verdict:
    """Returns what a step of the config needs on each core. Raises ValueError if it cannot be lowered.

    New weights and moments replace the old ones in place, so they are counted once.
    """
    if topology not in TOPOLOGIES:
        raise ValueError(f"invalid topology: {topology!r}; expected one of {', '.join(TOPOLOGIES)}")
    replicas, usable = TOPOLOGIES[topology]
    config = config.on(fast_bfloat16=True)
    size = config.batch_size // replicas // config.micro_batches(replicas)
    program = (
        f"{topology}, {replicas} cores, {config.micro_batches(replicas)} × {size} examples of {max_seq_length} tokens "
        f"each, {config.kernel_dtype}"
    )
    settings = {
        "config": asdict(config),
        "bert_config": {**config.model, "vocab_size": vocab_size},
        "max_seq_length": max_seq_length,
        "max_predictions_per_seq": max_predictions_per_seq,
        "replicas": replicas,
    }
    python = find_interpreter()
    with tempfile.TemporaryDirectory(prefix="danmaku-tpu-") as work:
        given, hlo = Path(work, "settings.json"), Path(work, "step.hlo")
        given.write_text(json.dumps(settings), encoding="utf-8")
        _run(python, "training.tpu.lower", given, hlo)
        found = json.loads(_run(python, "training.tpu.compile", hlo, topology, replicas).splitlines()[-1])
    if "refused" in found:
        return Verdict(program, usable, refused=" ".join(found["refused"].split("\n\n")[0].split()))
    return Verdict(program, usable, found["arguments"] / GIB, found["temporaries"] / GIB)


def find_interpreter() -> Path:
    """Returns the Python of the environment that has the TPU compiler. Raises FileNotFoundError if there is none."""
    for python in (Path(sys.prefix).with_name(ENVIRONMENT) / "bin/python", Path(ENVIRONMENT, "bin/python").absolute()):
        if python.exists():
            return python
    raise FileNotFoundError(f"no {ENVIRONMENT}, the environment with the TPU compiler: run make tpu-check")


def _run(python: Path, module: str, *arguments: Any) -> str:
    environment = {**os.environ, **NO_MACHINE, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [str(python), "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{module} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return done.stdout
