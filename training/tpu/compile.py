"""Compiles HLO for a TPU, on a machine without one: python -m training.tpu.compile IN.hlo TOPOLOGY REPLICAS

JAX describes the topology and libtpu compiles for it, exactly as on a TPU machine. Prints one line of JSON: the bytes
that a core needs, or the compiler's error. JAX's API for this is private, hence the pinned version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def compile_hlo(hlo: bytes, topology: str, replicas: int) -> dict[str, Any]:
    """Returns the memory that a core needs, in bytes; or `refused`, the compiler's message."""
    import numpy as np
    from jax._src import compiler
    from jax._src.lib import xla_client
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    module = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    options = compiler.get_compile_options(
        num_replicas=replicas, num_partitions=1, device_assignment=np.array([[d.id] for d in devices[:replicas]])
    )
    try:
        memory = devices[0].client.compile(module, options).get_compiled_memory_stats()
    except xla_client.XlaRuntimeError as error:
        return {"cores": len(devices), "refused": str(error)}
    return {
        "cores": len(devices),
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }


if __name__ == "__main__":
    print(json.dumps(compile_hlo(Path(sys.argv[1]).read_bytes(), sys.argv[2], int(sys.argv[3]))))
