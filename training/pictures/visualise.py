"""Draws words as each model sees them, side by side: similar words are close together.

PCA and t-SNE project the vectors onto a plane. Random choices are seeded, so the same models and words give the same
picture. t-SNE keeps neighbours, not distances: read the groups, not the gaps, and the ranks (`readings`), which are
computed from the vectors themselves.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from training.files import check_writable, write_text
from training.pictures.panel import Panel
from training.pictures.readings import format_neighbours, format_table, to_json
from training.pictures.vectors import vectors_of

WORDS = Path(__file__).with_name("words.txt")
SUFFIXES = (".png", ".svg", ".html")
SEED = 1
PCA_DIMENSIONS = 50
PERPLEXITY = 15
MIN_WORDS = 5


def visualise(
    models: list[str], output: Path, *, words: Path | None = None, ranks: Path | None = None, neighbours: int = 0
) -> str:
    """Draws one panel per model (see `vectors`) to a .png, .svg or .html; returns the readings as Markdown.

    `words`: a file with one word per line (default: words.txt). `ranks`: where to write the readings as JSON.
    `neighbours`: how many of each word's neighbours to list, by the last model.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(f"invalid output: {output}; expected a name that ends in {', '.join(SUFFIXES)}")
    texts = read_words(words or WORDS)
    if output.suffix == ".html":
        from training.pictures.webpage import draw
    else:
        from training.pictures.drawing import draw
    for path in filter(None, (output, ranks)):
        check_writable(path)
    vectors = [vectors_of(model, texts) for model in models]
    panels = [Panel(model.model, texts, model.values, project(model.values)) for model in vectors]
    draw(panels, output)
    if ranks:
        write_text(ranks, json.dumps(to_json(texts, vectors), ensure_ascii=False, indent=2) + "\n")
    tables = [format_table(texts, vectors), format_neighbours(texts, vectors[-1], neighbours) if neighbours else ""]
    return "\n".join(filter(None, tables))


def read_words(path: Path) -> list[str]:
    """Reads the words of a file, one per line, without blank lines and repetitions."""
    words = list(dict.fromkeys(line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()))
    if len(words) < MIN_WORDS:
        raise ValueError(f"invalid words: {path} has {len(words)}; expected at least {MIN_WORDS}")
    return words


def project(vectors: np.ndarray) -> np.ndarray:
    """Projects vectors [n, h] to points [n, 2]: PCA to 50 dimensions, then t-SNE. Rows of NaN stay NaN."""
    known = ~np.isnan(vectors).any(axis=1)
    count, size = int(known.sum()), vectors.shape[1]
    if count < MIN_WORDS:
        raise ValueError(f"the model can spell {count} of {len(known)} words; expected at least {MIN_WORDS}")
    reduced = PCA(min(PCA_DIMENSIONS, count, size), svd_solver="full").fit_transform(vectors[known].astype(np.float64))
    # The exact method is as fast for so few points, and has no parallel sums, whose order may vary.
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", method="exact", learning_rate="auto", random_state=SEED)
    points = np.full((len(vectors), 2), np.nan)
    points[known] = tsne.fit_transform(reduced)
    return points
