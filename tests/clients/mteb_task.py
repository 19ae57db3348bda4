"""Prints the score of mteb's task LCQMC for a model: `DIRECTORY DATA`, where DATA is a folder with test.jsonl.

mteb would download its data; only where it lies is changed.
"""

from __future__ import annotations

import sys

import mteb
from sentence_transformers import SentenceTransformer


def main() -> None:
    task = mteb.get_task("LCQMC")
    task.metadata.dataset["path"] = sys.argv[2]
    result = mteb.evaluate(SentenceTransformer(sys.argv[1], device="cpu"), task, cache=None)
    print(result.task_results[0].get_score())


if __name__ == "__main__":
    main()
