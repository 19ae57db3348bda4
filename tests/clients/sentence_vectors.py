"""Prints sentence-transformers' vectors of a list of texts as JSON: `NAME=DIRECTORY… <texts.json`."""

from __future__ import annotations

import json
import sys

from sentence_transformers import SentenceTransformer


def main() -> None:
    texts, vectors = json.load(sys.stdin), {}
    for argument in sys.argv[1:]:
        name, _, directory = argument.partition("=")
        found = SentenceTransformer(directory, device="cpu").encode(texts, show_progress_bar=False)
        vectors[name] = [[round(number, 7) for number in row] for row in found.tolist()]
    json.dump({"texts": texts, "vectors": vectors}, sys.stdout, ensure_ascii=False)


if __name__ == "__main__":
    main()
