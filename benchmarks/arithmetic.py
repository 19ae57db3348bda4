"""Measures this machine's arithmetic limit: multiplications and additions of float32 numbers in registers.

A matrix product is not a limit: on some processors numpy reaches less than half of it. Needs a C compiler, `cc`.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Twelve independent sums keep the units for multiplication and addition busy; more would not fit into the registers.
SUMS, MULTIPLICATIONS = 12, 1_000_000
PEAK = f"""
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef float lanes __attribute__((vector_size(4 * LANES)));
int count_lanes(void) {{ return LANES; }}
float multiply(lanes factor, lanes step) {{
    lanes sums[{SUMS}];
    for (int i = 0; i < {SUMS}; i++) sums[i] = factor * (float)i;  // equal ones would be computed once
    for (long n = 0; n < {MULTIPLICATIONS}; n++)
        for (int i = 0; i < {SUMS}; i++) sums[i] = sums[i] * factor + step;
    float total = 0;
    for (int i = 0; i < {SUMS}; i++) total += sums[i][0];
    return total;
}}
float run(float value) {{
    lanes factor = {{0}}, step = {{0}};
    return multiply(factor + value, step + value);
}}
"""


class ArithmeticLimit:
    """Compiles the loop; `measure` runs it on some threads at once."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        with tempfile.TemporaryDirectory() as directory:
            source, library = Path(directory, "peak.c"), Path(directory, "peak.so")
            source.write_text(PEAK, encoding="ascii")
            flags = ["-O3", "-march=native", "-ffp-contract=fast", "-funroll-loops", "-shared", "-fPIC"]
            subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
            self._peak = ctypes.CDLL(str(library))
        self._peak.run.argtypes, self._peak.run.restype = [ctypes.c_float], ctypes.c_float

    def measure(self) -> float:
        """Returns floating-point operations per second, the best of ten tries."""
        tries = []
        with ThreadPoolExecutor(self._threads) as threads:
            for _ in range(10):
                started = time.perf_counter()
                list(threads.map(self._peak.run, [0.5] * self._threads))
                tries.append(time.perf_counter() - started)
        return 2 * self._threads * MULTIPLICATIONS * SUMS * int(self._peak.count_lanes()) / min(tries)
