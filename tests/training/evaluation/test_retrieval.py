"""Questions with one right answer each, the same for every way to make vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse

from service.tokenizer import Tokenizer
from training.alignment.cooccurrence import CooccurrenceSettings
from training.alignment.timed_lines import TimedLines, read_moments
from training.cli import main
from training.evaluation import baselines, retrieval
from training.evaluation.baselines import shortened, unit, whitened
from training.evaluation.retrieval import SYNONYMS, VARIANTS, Pair, Questions, answer, ask, cosines, read_pairs

SYNONYM, VARIANT = [Pair("草", "哈 哈 哈", "reaction")], [Pair("草", "草 草", "repeats")]


@pytest.fixture(scope="module")
def lines(danmaku: Path, models: tuple[Path, Path]) -> dict[str, TimedLines]:
    tokenizer = Tokenizer.from_file(models[1] / "vocab.txt")
    return {split: read_moments([danmaku], tokenizer, split=split, heldout=0.4) for split in ("train", "heldout")}


@pytest.fixture(scope="module")
def questions(lines: dict[str, TimedLines]) -> Questions:
    return ask(lines["train"], lines["heldout"], SYNONYM, VARIANT)


def test_a_rank_is_1_where_the_right_one_is_nearest(questions: Questions) -> None:
    """And of those who cannot tell, what chance gives."""
    pair = questions.pairs["synonyms"][0][:2]
    vectors = np.zeros((len(questions.texts), 3), np.float32)
    vectors[:, 0] = 1.0
    vectors[list(pair)] = [0.0, 1.0, 0.0]
    found = answer("two are alike", lambda texts: vectors, questions)
    assert found.synonyms.value == 1.0 and found.synonyms.count == 2
    assert found.synonyms_without_shared_characters.count == 2
    blind = answer("nothing", lambda texts: np.zeros((len(texts), 3), np.float32), questions)
    assert blind.same_moment.value == pytest.approx(1 / 50.5)
    assert blind.same_moment_accuracy == 0.0


def test_questions_are_of_one_moment_and_strangers_of_other_videos(
    lines: dict[str, TimedLines], questions: Questions
) -> None:
    heldout = lines["heldout"]
    videos_of: dict[str, set[int]] = {}
    moments_of: dict[str, list[tuple[int, float]]] = {}
    for text, video, second in zip(heldout.text_of, heldout.document_of, heldout.seconds, strict=True):
        videos_of.setdefault(heldout.texts[text], set()).add(int(video))
        moments_of.setdefault(heldout.texts[text], []).append((int(video), float(second)))
    assert len(questions.asked) > 20 and questions.strangers.shape[1] == 99
    for asked, wanted, strangers, video in zip(
        questions.asked, questions.wanted, questions.strangers, questions.videos, strict=True
    ):
        one, other = questions.texts[asked], questions.texts[wanted]
        assert not set(one) & set(other) - {" "}
        assert any(v == w and abs(s - t) <= 3 for v, s in moments_of[one] for w, t in moments_of[other])
        assert all(videos_of[questions.texts[stranger]] - {int(video)} for stranger in strangers)


def test_the_same_questions_are_asked_every_time(lines: dict[str, TimedLines], questions: Questions) -> None:
    again = ask(
        lines["train"], lines["heldout"], [Pair("草", "哈 哈 哈", "reaction")], [Pair("草", "草 草", "repeats")]
    )
    assert again.texts == questions.texts
    np.testing.assert_array_equal(again.strangers, questions.strangers)


def test_one_video_is_too_few(lines: dict[str, TimedLines]) -> None:
    only = lines["heldout"]
    first = only.document_of == only.document_of[0]
    of_first = {name: getattr(only, name)[first] for name in ("text_of", "seconds", "document_of")}
    one = replace(only, **of_first)
    with pytest.raises(ValueError, match="too few videos"):
        ask(lines["train"], one, [], [])


@pytest.mark.parametrize("path", [SYNONYMS, VARIANTS], ids=lambda path: path.stem)
def test_the_lists_that_ship_are_pairs(path: Path) -> None:
    """None twice, either way round, and none of a danmaku with itself but for its writing."""
    tokenizer = Tokenizer.from_file(Path(__file__).parents[3] / "models/danmaku-bert-mini/vocab.txt")
    pairs = read_pairs(path, tokenizer)
    raw = [line.split("\t")[:2] for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert all(one != other for one, other in raw)
    assert len({frozenset(pair) for pair in raw}) == len(pairs)
    if path == SYNONYMS:
        apart = sum(not pair.shares_a_character for pair in pairs)
        assert len(pairs) >= 150 and apart * 2 >= len(pairs)


def test_a_line_that_is_no_pair_is_refused(tmp_path: Path, models: tuple[Path, Path]) -> None:
    (tmp_path / "pairs.tsv").write_text("# none\n草\t哈\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"pairs\.tsv, line 2: expected one, other and kind"):
        read_pairs(tmp_path / "pairs.tsv", Tokenizer.from_file(models[1] / "vocab.txt"))


def test_cosines_of_sparse_vectors_are_those_of_dense_ones() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((6, 5)) * (np.arange(5) < 3))
    first, second = np.array([[0], [1]]), np.array([[2, 3], [4, 5]])
    dense = cosines(vectors, first, second)
    np.testing.assert_allclose(dense, cosines(sparse.csr_matrix(vectors), first, second), atol=1e-6)
    np.testing.assert_allclose(dense[1, 1], vectors[1] @ vectors[5], atol=1e-6)


def test_whitened_vectors_spread_evenly(lines: dict[str, TimedLines]) -> None:
    """A narrow cone becomes a ball: the cosines of different danmaku are 0 on average."""
    rng = np.random.default_rng(2)
    table = {text: rng.standard_normal(8) * [9, 5, 3, 1, 1, 1, 1, 1] + 20 for text in lines["train"].texts}
    narrow = lambda texts: unit(np.stack([table[text] for text in texts]))  # noqa: E731
    texts = lines["train"].texts
    before, after = narrow(texts), whitened(narrow, lines["train"])(texts)
    assert (before @ before.T).mean() > 0.9
    assert abs((after @ after.T).mean()) < 0.05
    spread = np.linalg.svd(after, compute_uv=False)
    assert spread[0] < 1.5 * spread[-1]


def test_shortened_vectors_have_length_1_again() -> None:
    embed = shortened(lambda texts: np.array([[0.6, 0.0, 0.8], [0.0, 0.0, 1.0]], np.float32)[: len(texts)], 2)
    np.testing.assert_array_equal(embed(["草", "哈"]), [[1, 0], [0, 0]])


def test_dims_that_there_are_not_are_refused(danmaku: Path, models: tuple[Path, Path]) -> None:
    """Before anything is read."""
    for dim in (0, 100_000):
        with pytest.raises(ValueError, match=f"{dim} is asked for, but the vectors have 1 to"):
            retrieval.evaluate_retrieval([models[1]], [danmaku], dims=[dim])


def test_what_tfidf_finds_near_is_written_alike(lines: dict[str, TimedLines]) -> None:
    vectors = baselines.tfidf(lines["train"])(["哈 哈 哈", "哈 哈 哈 哈", "草", "龘"])
    assert cosines(vectors, np.array([0]), np.array([1]))[0] == pytest.approx(1)
    assert cosines(vectors, np.array([0]), np.array([2]))[0] == 0
    assert vectors[3].nnz == 0


def test_the_command_prints_every_way_beside_the_others(
    danmaku: Path,
    models: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = CooccurrenceSettings(min_context_count=2, min_pair_count=2, min_count=2, dim=8)
    monkeypatch.setattr(retrieval, "CooccurrenceSettings", lambda: small)
    arguments = ["evaluate", "--retrieval", "--model", str(models[1]), "--corpus", str(danmaku), "--heldout", "0.4"]
    arguments += ["--dims", "8"]
    assert main([*arguments, "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    names = ["character TF-IDF", "co-occurrence", "after", "after, whitened", "after, first 8"]
    for name in names:
        assert f"| {name} " in printed
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found] == names
    assert (
        0 < found[2]["same_moment"]["low"] <= found[2]["same_moment"]["value"] <= found[2]["same_moment"]["high"] <= 1
    )
