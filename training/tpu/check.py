"""`danmaku-train tpu-check`: lowers and compiles a config's step for a topology, and adds up a core's memory."""

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
REPLICAS = {"v2:2x2": 8, "v3:2x2": 8}  # two cores to a chip, each a device; later generations have one device a chip
# What a program may use of a core's memory, as the compiler says when it refuses one.
USABLE = {"v3:2x2": 15.48}

# Else libtpu asks the cloud for minutes which TPU this machine is.
NO_MACHINE = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}


@dataclass(frozen=True)
class Need:
    """Of one core, in GiB. `refused`: why the compiler did not compile it; then the figures are zero."""

    arguments: float = 0.0
    temporaries: float = 0.0
    compile_s: float = 0.0
    refused: str | None = None

    @property
    def total(self) -> float:
        return self.arguments + self.temporaries


def tpu_check(
    config: TrainConfig,
    *,
    topology: str = "v3:2x2",
    vocab_size: int,
    max_seq_length: int,
    max_predictions_per_seq: int,
) -> Need:
    """What a step of the config needs of each core. Raises ValueError if it cannot even be lowered."""
    python = interpreter()
    replicas = REPLICAS.get(topology, 4)
    config = config.on(fast_bfloat16=True)
    config.micro_batches(replicas)
    settings = {
        "config": asdict(config),
        "bert_config": {**config.model, "vocab_size": vocab_size},
        "max_seq_length": max_seq_length,
        "max_predictions_per_seq": max_predictions_per_seq,
        "replicas": replicas,
    }
    with tempfile.TemporaryDirectory(prefix="danmaku-tpu-") as work:
        given, hlo = Path(work, "settings.json"), Path(work, "step.hlo")
        given.write_text(json.dumps(settings), encoding="utf-8")
        _run(python, "training.tpu.lower", given, hlo)
        found = json.loads(_run(python, "training.tpu.compile", hlo, topology, replicas).splitlines()[-1])
    if "refused" in found:
        return Need(refused=found["refused"])
    return Need(found["arguments"] / GIB, found["temporaries"] / GIB, found["compile_s"])


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
