"""What a danmaku embedding is worth to who searches with it: does it find what belongs together?

    same moment   a danmaku of a video that no model has seen, one that was written within 3 s of it and shares no
                  character with it, and 99 of other such videos: at which place does the one stand?
    synonyms      synonyms.tsv, pairs that viewers use for the same thing: at which place does one stand from
                  the other, among the 1,000 commonest danmaku?
    variants      variants.tsv, the same danmaku written otherwise: the same question

as mean reciprocal ranks, where 1 is perfect and chance is 0.05 for the first and 0.007 for the others. And of the space
as a whole, alignment and uniformity (arXiv 2005.10242): how far apart danmaku of one moment are, how evenly all are
spread; less is better of both.

The questions follow from the recordings and one frozen seed, and are the same for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse

from service.model_directory import BertConfig
from service.tokenizer import Tokenizer
from training.alignment import cooccurrence
from training.alignment import timed_lines as moments
from training.alignment.cooccurrence import CooccurrenceSettings
from training.alignment.timed_lines import TimedLines, read_moments
from training.evaluation import baselines
from training.evaluation.baselines import Embed, Matrix
from training.progress import open_progress

SEED = 20190531  # never changed
MOMENT_S, MAX_NEIGHBOURS = 3.0, 20
QUESTIONS, QUESTIONS_PER_VIDEO = 2000, 20
STRANGERS = 99
FREQUENT = 1000
RANDOM_PAIRS = 20_000
RESAMPLES = 1000
SYNONYMS, VARIANTS = Path(__file__).with_name("synonyms.tsv"), Path(__file__).with_name("variants.tsv")


@dataclass(frozen=True)
class Pair:
    """Two danmaku that mean the same, in the model's normal form."""

    first: str
    second: str
    kind: str

    @property
    def shares_a_character(self) -> bool:
        return bool(set(self.first) & set(self.second) - {" "})


@dataclass(frozen=True)
class Questions:
    """q of them: the same danmaku for every model."""

    texts: list[str]  # all that is asked about
    asked: np.ndarray  # [q], which text
    wanted: np.ndarray  # [q]
    strangers: np.ndarray  # [q, STRANGERS]
    videos: np.ndarray  # [q]
    frequent: np.ndarray  # [FREQUENT]
    pairs: dict[str, list[tuple[int, int, bool]]]  # synonyms, variants: two texts, and do they share a character?
    random: np.ndarray  # [RANDOM_PAIRS, 2]


@dataclass(frozen=True)
class Mean:
    """With the 95 % interval of a bootstrap over videos, or over pairs."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Retrieval:
    """How one way to make vectors did."""

    name: str
    same_moment: Mean
    same_moment_accuracy: float  # how often the one stands first
    synonyms: Mean
    synonyms_without_shared_characters: Mean
    variants: Mean
    alignment: float
    uniformity: float


def read_pairs(path: Path, tokenizer: Tokenizer) -> list[Pair]:
    """`one, other, kind` a line, separated by tabs; # begins a comment. Raises ValueError for other lines."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split("\t")
        if len(parts) != 3:
            raise ValueError(f"{path}, line {number}: expected one, other and kind, separated by tabs")
        pairs.append(Pair(tokenizer.normalize(parts[0]), tokenizer.normalize(parts[1]), parts[2]))
    return pairs


def ask(train: TimedLines, heldout: TimedLines, synonyms: Sequence[Pair], variants: Sequence[Pair]) -> Questions:
    """Raises ValueError if the held-out videos have no two danmaku to ask about."""
    rng = np.random.default_rng(SEED)
    asked, wanted, strangers, videos = _same_moment(heldout, rng)
    commonest = np.argsort(-train.counts, kind="stable")[:FREQUENT]
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    def of_lines(numbers: np.ndarray) -> np.ndarray:
        return np.vectorize(lambda line: number(heldout.texts[heldout.text_of[line]]), otypes=[np.int64])(numbers)

    random = rng.integers(0, len(heldout.text_of), (RANDOM_PAIRS, 2))
    return Questions(
        asked=of_lines(asked),
        wanted=of_lines(wanted),
        strangers=of_lines(strangers),
        videos=videos,
        frequent=np.array([number(train.texts[text]) for text in commonest]),
        pairs={
            name: [(number(pair.first), number(pair.second), pair.shares_a_character) for pair in pairs]
            for name, pairs in (("synonyms", synonyms), ("variants", variants))
        },
        random=of_lines(random),
        texts=list(texts),
    )


def answer(name: str, embed: Embed, questions: Questions) -> Retrieval:
    vectors = embed(questions.texts)
    ranks = _ranks(
        cosines(vectors, questions.asked, questions.wanted),
        cosines(vectors, questions.asked[:, None], questions.strangers),
    )
    synonyms, apart = _pair_ranks(vectors, questions, "synonyms")
    variants, _ = _pair_ranks(vectors, questions, "variants")
    return Retrieval(
        name,
        same_moment=_mean(1 / ranks, questions.videos),
        same_moment_accuracy=float((ranks < 2).mean()),
        synonyms=_mean(1 / synonyms),
        synonyms_without_shared_characters=_mean(1 / synonyms[apart]),
        variants=_mean(1 / variants),
        alignment=float((2 - 2 * cosines(vectors, questions.asked, questions.wanted)).mean()),
        uniformity=float(np.log(np.exp(-2 * (2 - 2 * cosines(vectors, *questions.random.T))).mean())),
    )


def cosines(vectors: Matrix, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of the rows of these numbers, of vectors of length 1; the two broadcast."""
    first, second = np.broadcast_arrays(first, second)
    if sparse.issparse(vectors):
        products = vectors[first.ravel()].multiply(vectors[second.ravel()]).sum(1)
        return np.asarray(products).reshape(first.shape)
    found = np.empty(first.shape, np.float32)
    for row in range(len(first)):  # a question at a time: all at once would take gigabytes
        found[row] = (vectors[first[row]] * vectors[second[row]]).sum(-1)
    return found


def _same_moment(lines: TimedLines, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Lines that are asked about, that are wanted, strangers, and the videos of the first."""
    first, last = lines.neighbours(MOMENT_S, MAX_NEIGHBOURS)
    edges = np.searchsorted(lines.document_of, np.arange(lines.document_of.max() + 2))
    characters = [set(text) - {" "} for text in lines.texts]
    found = []
    for video, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        count = 0
        for line in rng.permutation(np.arange(start, end)):
            ours = characters[lines.text_of[line]]
            others = [o for o in range(first[line], last[line]) if not ours & characters[lines.text_of[o]]]
            if not others or end - start == len(lines.text_of):
                continue
            strangers = rng.integers(0, len(lines.text_of) - (end - start), STRANGERS)
            strangers += np.where(strangers >= start, end - start, 0)  # over this video
            found.append((line, others[rng.integers(len(others))], strangers, video))
            count += 1
            if count == QUESTIONS_PER_VIDEO:
                break
    if not found:
        raise ValueError("no two danmaku of a held-out video stand within 3 s and share no character: too few videos")
    kept = rng.permutation(len(found))[:QUESTIONS]
    return tuple(np.array(column) for column in zip(*(found[question] for question in kept), strict=True))


def _pair_ranks(vectors: Matrix, questions: Questions, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Forth and back of every pair: ranks, and whether the two share no character."""
    pairs = questions.pairs[name]
    ranks = np.array(
        [_pair_rank(vectors, questions.frequent, *way) for a, b, _ in pairs for way in ((a, b), (b, a))], np.float64
    )
    return ranks, np.repeat([not shares for *_, shares in pairs], 2)


def _pair_rank(vectors: Matrix, frequent: np.ndarray, asked: int, wanted: int) -> float:
    others = frequent[(frequent != asked) & (frequent != wanted)]
    right = cosines(vectors, np.array([asked]), np.array([wanted]))
    return float(_ranks(right, cosines(vectors, np.array([[asked]]), others[None]))[0])


def _ranks(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The place of the right one among the wrong ones, from 1; of equals, the middle: [q], [q, w] → [q]."""
    return np.asarray(1 + (wrong > right[:, None]).sum(1) + (wrong == right[:, None]).sum(1) / 2)


def _mean(values: np.ndarray, clusters: np.ndarray | None = None) -> Mean:
    rng = np.random.default_rng(SEED)
    clusters = np.arange(len(values)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sums, counts = np.bincount(clusters, weights=values), np.bincount(clusters)
    drawn = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    return Mean(float(values.mean()), float(low), float(high), len(values))


def evaluate_retrieval(
    models: list[Path],
    recordings: list[Path],
    *,
    heldout: float = 0.05,
    aligned: Path | None = None,
    dims: Sequence[int] = (),
) -> list[Retrieval]:
    """The models beside what needs none, on the held-out videos of the recordings; each once more whitened, and cut to
    its first `dims`.

    The baselines learn from the other videos, which takes minutes; with `aligned`, the workdir of a run of `align` on
    the same recordings, what it read and counted is taken.

    Raises ValueError for `dims` that a model does not have.
    """
    sizes = [BertConfig.from_json_file(directory / "bert_config.json").hidden_size for directory in models]
    for dim in dims:
        if not 1 <= dim <= min(sizes):
            raise ValueError(f"dims: {dim} is asked for, but the vectors have 1 to {min(sizes)}")
    tokenizer = Tokenizer.from_file(models[0] / "vocab.txt")
    synonyms, variants = read_pairs(SYNONYMS, tokenizer), read_pairs(VARIANTS, tokenizer)
    asked_of = read_moments(recordings, tokenizer, split="heldout", heldout=heldout)
    if aligned:
        train = TimedLines.load(aligned / moments.FILE)
        counted = cooccurrence.load(aligned / cooccurrence.FILE, train)
    else:
        train = read_moments(recordings, tokenizer, split="train", heldout=heldout)
        counted = cooccurrence.fit(train, CooccurrenceSettings())
    questions = ask(train, asked_of, synonyms, variants)
    systems: list[tuple[str, Embed]] = [
        ("character TF-IDF", baselines.tfidf(train)),
        ("co-occurrence", baselines.cooccurrence(counted)),
    ]
    for directory in models:
        embed = baselines.encoder(directory)
        systems += [(directory.name, embed), (f"{directory.name}, whitened", baselines.whitened(embed, train))]
        systems += [(f"{directory.name}, first {dim}", baselines.shortened(embed, dim)) for dim in dims]
    answers = []
    with open_progress("evaluate", len(systems), "ways") as progress:
        for name, embed in systems:
            answers.append(answer(name, embed, questions))
            progress.update(1)
    return answers
