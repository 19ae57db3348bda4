"""Compares heads with what a user would try first: macro-F1 by the number of texts per label, with 95 % intervals.

    python benchmarks/heads.py cold_train.tsv cold_dev.tsv --sizes 8 64 512 8000
    python benchmarks/heads.py shopping.tsv --tune

Each size is drawn several times from the training texts, fewer times for larger sizes; all draws are judged on the same
texts, and intervals are means over the draws. TF-IDF uses single characters, pairs and triples, sublinear, with a
logistic regression whose strength cross-validation chooses: scikit-learn's usual recipe. With --tune, models are also
fine-tuned, which takes minutes for each.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from service.encoders.options import EncoderOptions
from training.evaluation.intervals import Mean
from training.evaluation.labelled import score_macro_f1
from training.evaluation.models import embed
from training.evaluation.tables import align
from training.heads import linear
from training.heads.classify import describe_encoder, read_split, tune_head
from training.heads.texts import LabelledTexts

DRAWS = {8: 5, 64: 3}  # by size; others once
STRENGTHS = (1.0, 3.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("learned", type=Path, metavar="FILE", help="labelled texts to learn from")
    parser.add_argument("judged", type=Path, nargs="?", metavar="FILE", help="texts to judge (a fifth of the others)")
    parser.add_argument("--model", type=Path, default=Path("models/danmaku-bert-mini"), metavar="DIR")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 64, 512], metavar="N", help="texts per label")
    parser.add_argument("--most", type=int, default=2000, metavar="N", help="texts to judge, at most (%(default)s)")
    parser.add_argument("--draws", type=int, default=5, metavar="N", help="draws per size, at most (%(default)s)")
    parser.add_argument("--tune", action="store_true", help="fine-tune models, too")
    flags = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")
    _, learned, judged = read_split(flags.learned, flags.judged)
    judged = judged.select(np.arange(min(flags.most, len(judged))))
    draws = {size: min(DRAWS.get(size, 1), flags.draws) for size in flags.sizes}
    chosen = [draw(learned, size, seed) for size in flags.sizes for seed in range(draws[size])]
    texts = list(dict.fromkeys([*judged.texts, *(text for part in chosen for text in part.texts)]))
    place_of = {text: place for place, text in enumerate(texts)}
    vectors = embed(flags.model, texts)
    encoder = describe_encoder(flags.model, EncoderOptions())

    def vectors_of(part: LabelledTexts) -> np.ndarray:
        return vectors[[place_of[text] for text in part.texts]]

    names = ("commonest label", "TF-IDF", "head", *(["tuned"] if flags.tune else []))
    rows = [("texts of a label", *names)]
    for size in flags.sizes:
        found: list[list[Mean]] = [[] for _ in names]
        for seed in range(draws[size]):
            part = draw(learned, size, seed)
            commonest = np.full(len(judged), np.bincount(learned.labels).argmax())
            choice = linear.choose(part, vectors_of(part), "balanced")
            head = linear.train(part, vectors_of(part), encoder, choice, "balanced")
            tfidf = make_pipeline(
                TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True),
                GridSearchCV(
                    LogisticRegression(class_weight="balanced", max_iter=1000),
                    {"C": STRENGTHS},
                    scoring="f1_macro",
                ),
            ).fit(part.texts, part.labels)
            said = [commonest, tfidf.predict(judged.texts), head.score(judged.texts, vectors_of(judged)).argmax(1)]
            if flags.tune:
                said.append(tune(part, judged, flags.model))
            for means, labels in zip(found, said, strict=True):
                means.append(score_macro_f1(judged.labels, labels))
        rows.append((f"{size:,}", *map(_format, found)))
        print("\n".join(align(rows)), f"\n{len(judged):,} texts judged, {len(judged.names)} labels\n", flush=True)


def tune(part: LabelledTexts, judged: LabelledTexts, model: Path) -> np.ndarray:
    """Returns the labels that `danmaku-train classify --tune` gives the texts to judge [n]."""
    with TemporaryDirectory() as folder:
        output, workdir = Path(folder) / "model", Path(folder) / "run"
        found = tune_head(part, judged, model, output, workdir, EncoderOptions(), "balanced", seed=1)
    if found is None:
        raise KeyboardInterrupt
    return found.scores.argmax(1)


def draw(texts: LabelledTexts, size: int, seed: int) -> LabelledTexts:
    """Returns `size` texts per label, or all if there are fewer."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(texts.labels == label) for label in range(len(texts.names))]
    return texts.select(np.sort(np.concatenate([rng.permutation(part)[:size] for part in members])))


def _format(means: list[Mean]) -> str:
    value, low, high = (np.mean([getattr(mean, name) for mean in means]) for name in ("value", "low", "high"))
    return f"{value:.3f} ({low:.3f}–{high:.3f})"


if __name__ == "__main__":
    main()
