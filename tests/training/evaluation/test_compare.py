"""Models beside baselines, as the command prints them, and the cache of lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.tokenizer import Tokenizer
from service.vectors import unit
from training.alignment.cooccurrence import CooccurrenceSettings
from training.alignment.timed_lines import TimedLines, read_moments
from training.cli import main
from training.evaluation import compare
from training.evaluation.baselines import embed_tfidf
from training.evaluation.models import shorten, whiten
from training.evaluation.space import compare_rows

MODEL = Path(__file__).parents[3] / "models/danmaku-bert-mini"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(MODEL / "vocab.txt")


@pytest.fixture(scope="module")
def lines(danmaku: Path, tokenizer: Tokenizer) -> dict[str, TimedLines]:
    return {split: read_moments([danmaku], tokenizer, split=split, heldout=0.4) for split in ("train", "heldout")}


@pytest.fixture
def few_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    small = CooccurrenceSettings(min_context_count=2, min_pair_count=2, min_count=2, dim=8)
    for settings in ("COOCCURRENCE", "NGRAMS"):
        monkeypatch.setattr(compare, settings, small)


def test_whitened_vectors_spread_evenly() -> None:
    """A narrow cone becomes a ball: the cosines of different danmaku are 0 on average."""
    narrow = unit(np.random.default_rng(2).standard_normal((300, 8)) * [9, 5, 3, 1, 1, 1, 1, 1] + 20)
    after = whiten(narrow, narrow)
    assert (narrow @ narrow.T).mean() > 0.9
    assert abs((after @ after.T).mean()) < 0.05
    spread = np.linalg.svd(after, compute_uv=False)
    assert spread[0] < 1.5 * spread[-1]


def test_shortened_vectors_have_length_1_again() -> None:
    vectors = np.array([[0.6, 0.0, 0.8], [0.0, 0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(shorten(vectors, 2), [[1, 0], [0, 0]])


def test_tfidf_finds_similar_spellings(lines: dict[str, TimedLines]) -> None:
    vectors = embed_tfidf(lines["train"])(["哈 哈 哈", "哈 哈 哈 哈", "草", "龘"])
    assert compare_rows(vectors, np.array([0]), np.array([1]))[0] == pytest.approx(1)
    assert compare_rows(vectors, np.array([0]), np.array([2]))[0] == 0
    assert vectors[3].nnz == 0


def test_joined_lines_contain_both_parts(lines: dict[str, TimedLines]) -> None:
    first, second = lines["train"], lines["heldout"]
    both = compare.join(first, second)
    assert set(both.texts) == {*first.texts, *second.texts} and len(set(both.texts)) == len(both.texts)
    said = [both.texts[text] for text in both.text_of]
    assert said == [part.texts[text] for part in (first, second) for text in part.text_of]
    for part in (first, second):
        for number in (0, len(part.texts) - 1):
            place = both.texts.index(part.texts[number])
            np.testing.assert_array_equal(
                both.tokens[both.starts[place] : both.starts[place + 1]],
                part.tokens[part.starts[number] : part.starts[number + 1]],
            )
    assert len(set(both.document_of)) == len(set(first.document_of)) + len(set(second.document_of))


def test_a_cache_is_reused_only_for_the_same_input(
    danmaku: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare.read_lines([danmaku], tokenizer, "heldout", 0.4, tmp_path)
    monkeypatch.setattr(compare, "read_moments", lambda *_, **__: pytest.fail("read again"))
    again = compare.read_lines([danmaku], tokenizer, "heldout", 0.4, tmp_path)
    assert again.texts == first.texts
    np.testing.assert_array_equal(again.text_of, first.text_of)
    with pytest.raises(pytest.fail.Exception, match="read again"):
        compare.read_lines([danmaku], tokenizer, "heldout", 0.3, tmp_path)


def test_invalid_dims_are_refused(danmaku: Path) -> None:
    """The error comes before anything is read."""
    for dim in (0, 100_000):
        with pytest.raises(ValueError, match=f"invalid dims: {dim}; expected 1 to"):
            compare.compare([MODEL], [danmaku], dims=[dim])


def test_an_unknown_baseline_is_refused(danmaku: Path) -> None:
    with pytest.raises(ValueError, match="invalid baseline: bm25; expected tfidf, cooccurrence"):
        compare.compare([MODEL], [danmaku], heldout=0.4, baselines=["bm25"])


@pytest.mark.usefixtures("few_dimensions")
def test_the_command_prints_models_and_baselines(
    danmaku: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--retrieval", "--model", str(MODEL), "--corpus", str(danmaku), "--heldout", "0.4"]
    arguments += [
        "--live",
        str(danmaku),
        "--live-heldout",
        "0.4",
        "--dims",
        "8",
        "--precision",
        "int8",
        "--cache",
        str(tmp_path / "cache"),
    ]
    assert main([*arguments, "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    baselines = ["character TF-IDF", "co-occurrence", "character n-grams"]
    names = [*baselines, MODEL.name, f"{MODEL.name}, whitened", f"{MODEL.name}, first 8", f"{MODEL.name}, int8"]
    assert [cell.strip() for cell in printed.splitlines()[0].split("|")[2:-1]] == names
    for question in ("same moment, live rooms", "words of 2020", "variants above opposites, AUC", "strangers'"):
        assert f"| {question}" in printed
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found] == names
    assert all(
        0 < row["same_moment"]["low"] <= row["same_moment"]["value"] <= row["same_moment"]["high"] for row in found
    )
    assert found[3]["opposites"]["test"]["against_variants"]["count"] > 1000

    assert main([*arguments, "--baselines"]) == 0
    again = capsys.readouterr().out
    assert [cell.strip() for cell in again.splitlines()[0].split("|")[2:-1]] == names[3:]
    row = next(line for line in printed.splitlines() if line.startswith("| same moment, videos"))
    assert row.split("|")[5].strip() in again


def test_live_rooms_are_evaluated_only_if_given(danmaku: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "evaluate",
                "--retrieval",
                "--model",
                str(MODEL),
                "--corpus",
                str(danmaku),
                "--heldout",
                "0.4",
                "--baselines",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "live" not in printed and "2020" not in printed and "same moment, videos" in printed
