"""Defines the sizes and intervals of a store; tests and benchmarks pass smaller ones.

They change no answer, except which neighbours an approximate search proposes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    # Comparing all rows took 0.36 ms here and a graph 0.26; at twice as many 0.77 and 0.36 (benchmarks/stores.py
    # --threshold).
    exact_up_to: int = 10_000
    tail: int = 1_000  # rows that may wait for the graph: comparing them takes about 30 µs
    # What a search costs, in µs: testing one row against a filter; comparing one row, scattered among others; one
    # candidate of the graph. They only decide between two ways to the same answer.
    in_order_us: float = 0.0005
    scattered_us: float = 0.1
    candidate_us: float = 3.5
    maintain_every_s: float = 0.2
    # A snapshot is due when the last one lacks this many rows, and this share of the graph.
    snapshot_rows: int = 20_000
    snapshot_share: float = 0.2
    pages_at_a_time: int = 500  # given back to the file system in one step
