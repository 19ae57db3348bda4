"""`danmaku-train tpu-check`: lowers and compiles a config's step for a topology, and tells a core's memory."""

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
# Devices and GiB of memory that a program may use on each, as the compiler says when it refuses one. Up to v3 each
# of the two cores of a chip is a device.
TOPOLOGIES = {"v3:2x2": (8, 15.48)}
# Else libtpu asks the cloud for minutes which TPU this machine is.
NO_MACHINE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}


@dataclass(frozen=True)
class Verdict:
    """Of the compiler on one program. In GiB of one core; `refused` is its reason, if it did not compile."""

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
    """What a step of the config needs of each core. Raises ValueError if it cannot even be lowered.

    The new weights and moments take the place of the old ones, so they are counted once.
    """
    if topology not in TOPOLOGIES:
        raise ValueError(f"the topology is {topology!r}; known are {', '.join(TOPOLOGIES)}")
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
    python = interpreter()
    with tempfile.TemporaryDirectory(prefix="danmaku-tpu-") as work:
        given, hlo = Path(work, "settings.json"), Path(work, "step.hlo")
        given.write_text(json.dumps(settings), encoding="utf-8")
        _run(python, "training.tpu.lower", given, hlo)
        found = json.loads(_run(python, "training.tpu.compile", hlo, topology, replicas).splitlines()[-1])
    if "refused" in found:
        return Verdict(program, usable, refused=" ".join(found["refused"].split("\n\n")[0].split()))
    return Verdict(program, usable, found["arguments"] / GIB, found["temporaries"] / GIB)


def interpreter() -> Path:
    """The Python of the environment with the TPU's compiler."""
    for python in (Path(sys.prefix).with_name(ENVIRONMENT) / "bin/python", Path(ENVIRONMENT, "bin/python").absolute()):
        if python.exists():
            return python
    raise FileNotFoundError(f"there is no {ENVIRONMENT}, which has the TPU's compiler: make tpu-check makes it")


def _run(python: Path, module: str, *arguments: Any) -> str:
    environment = {**os.environ, **NO_MACHINE, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [str(python), "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{module} failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
    return done.stdout
