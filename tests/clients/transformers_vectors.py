"""Prints transformers' vectors of a list of texts as JSON, pooled as in docs/models.md: `DIRECTORY <texts.json`."""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModel, AutoTokenizer


def main() -> None:
    texts, vectors = json.load(sys.stdin), []
    tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModel.from_pretrained(sys.argv[1])
    for start in range(0, len(texts), 64):
        batch = tokenizer(texts[start : start + 64], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            tokens = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        vectors += ((tokens * mask).sum(1) / mask.sum(1)).tolist()
    json.dump(vectors, sys.stdout)


if __name__ == "__main__":
    main()
