"""/tokenize: how the model reads a text."""

from __future__ import annotations

import httpx
import pytest


async def tokenized(client: httpx.AsyncClient, *texts: str) -> list[dict[str, object]]:
    answer = await client.post("/tokenize", json={"texts": texts})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["results"])


async def test_tokens_are_what_the_model_reads(client: httpx.AsyncClient) -> None:
    answer = (await client.post("/tokenize", json={"texts": ["AWSL 草kksk"]})).json()
    info = (await client.get("/info")).json()
    (result,) = answer["results"]

    assert {name: answer[name] for name in ("model", "fingerprint", "max_seq_len")} == {
        name: info[name] for name in ("model", "fingerprint", "max_seq_len")
    }
    assert result["tokens"] == ["[CLS]", "awsl", "草", "kk", "##sk", "[SEP]"]
    assert (len(result["ids"]), result["num_tokens"]) == (6, 6)
    assert (result["unknown"], result["truncated"]) == ([], "")


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("喵", [("喵", 0, 1)]),
        (" 草😂 喵好", [("😂", 2, 3), ("喵", 4, 5)]),
        ("\u200b😂😂草", [("😂😂", 1, 3)]),
        ("ＡＷ\u0301ＳＬ", [("ＡＷ\u0301ＳＬ", 0, 5)]),
        ("awslx", [("awslx", 0, 5)]),
        ("2" * 101 + "草", [("2" * 101, 0, 101)]),
        ("[UNK]", []),
        ("草" * 14 + "喵", []),
    ],
)
async def test_unknown_characters_are_reported_with_their_position(
    client: httpx.AsyncClient, text: str, unknown: list[tuple[str, int, int]]
) -> None:
    """Positions count characters of the text as sent, as far as the model reads it."""
    (result,) = await tokenized(client, text)
    if text == "[UNK]":  # brackets and letters, no special token
        unknown = [("[", 0, 1), ("UNK", 1, 4), ("]", 4, 5)]

    assert [tuple(word.values()) for word in result["unknown"]] == unknown
    assert all(text[word["start"] : word["end"]] == word["text"] for word in result["unknown"])


@pytest.mark.parametrize(
    ("text", "truncated"),
    [
        ("草" * 14, ""),
        ("草" * 14 + " \n", ""),
        ("草" * 14 + "AWSL？", "AWSL？"),
        (" 草" * 16, "草 草"),
        ("草" * 13 + "kksk好", "sk好"),
    ],
)
async def test_the_truncated_part_is_returned(client: httpx.AsyncClient, text: str, truncated: str) -> None:
    """It is returned as in the text; the rest is what /embed turns into a vector."""
    (result,) = await tokenized(client, text)
    read = text[: len(text) - len(truncated)]

    assert result["truncated"] == truncated
    assert result["num_tokens"] == 16
    if "kksk" not in text:
        vectors = (await client.post("/embed", json=[text, read])).json()["embeddings"]
        assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)


async def test_blank_texts_have_no_tokens_of_their_own(client: httpx.AsyncClient) -> None:
    for result in await tokenized(client, "", " \u3000", "\u200b"):
        assert (result["tokens"], result["unknown"], result["truncated"]) == (["[CLS]", "[SEP]"], [], "")


async def test_too_many_texts_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/tokenize", json={"texts": ["草"] * 51})

    assert (answer.status_code, answer.json()["error_type"]) == (413, "too_large")


async def test_a_text_that_is_too_long_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/tokenize", json={"texts": ["草", "a" * 10_001]})

    assert (answer.status_code, answer.json()["error_type"]) == (422, "invalid_request")
    assert answer.json()["error"] == "invalid texts.1: expected at most 10000 characters"


async def test_an_encoder_without_a_vocabulary_is_an_error(recording_client: httpx.AsyncClient) -> None:
    """A remote worker may not report its vocabulary."""
    answer = await recording_client.post("/tokenize", json={"texts": ["草"]})

    assert (answer.status_code, answer.json()["error_type"]) == (404, "no_vocabulary")
    assert "'recording' does not reveal its vocabulary" in answer.json()["error"]
