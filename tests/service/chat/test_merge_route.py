"""POST /merge: lists and streams, and `relation` in POST /similar."""

from __future__ import annotations

import json

import httpx
import pytest

LINES = [
    {"text": "来了", "time": 1.0, "id": "a"},
    {"text": "没来", "time": 1.5, "id": "b"},
    {"text": "来了来了！", "time": 2.0, "id": "c"},
    {"text": "来了", "time": 30.0, "id": "d"},
]
GROUPS = [
    {"text": "来了", "count": 2, "first": 1.0, "last": 2.0, "ids": ["a", "c"]},
    {"text": "没来", "count": 1, "first": 1.5, "last": 1.5, "ids": ["b"]},
    {"text": "来了", "count": 1, "first": 30.0, "last": 30.0, "ids": ["d"]},
]


async def test_a_list_is_merged(client: httpx.AsyncClient) -> None:
    answer = await client.post("/merge", json={"lines": LINES, "window_s": 20})

    assert answer.status_code == 200, answer.text
    assert answer.json()["groups"] == GROUPS
    assert answer.json()["model"] == "tiny"


async def test_lines_are_known_by_their_index_without_an_id(client: httpx.AsyncClient) -> None:
    answer = await client.post("/merge", json={"lines": [{"text": "草", "time": 2}, {"text": "草", "time": 1}]})

    assert answer.json()["groups"] == [{"text": "草", "count": 2, "first": 1.0, "last": 2.0, "ids": ["1", "0"]}]


async def test_a_stream_is_merged_as_a_list_is(client: httpx.AsyncClient) -> None:
    body = "".join(json.dumps(line) + "\n" for line in LINES)
    answer = await client.post("/merge?window_s=20", content=body, headers={"content-type": "application/x-ndjson"})
    head, *groups, end = map(json.loads, answer.text.splitlines())

    assert head["model"] == "tiny"
    assert groups == GROUPS
    assert end == {"finished": True, "lines": 4, "groups": 3}


async def test_a_refused_line_of_a_stream_harms_no_other(client: httpx.AsyncClient) -> None:
    lines = [LINES[0], {"text": "草"}, LINES[3], LINES[1], "{"]
    body = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    answer = await client.post("/merge", content=body, headers={"content-type": "application/x-ndjson"})
    _, *answers, end = map(json.loads, answer.text.splitlines())
    refused = {each["index"]: each["error"] for each in answers if "error" in each}

    assert refused[1].startswith("invalid time") and "after 30" in refused[3] and "JSON" in refused[4]
    assert [each["ids"] for each in answers if "ids" in each] == [["a"], ["d"]]
    assert (end["lines"], end["groups"]) == (2, 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"lines": [{"text": "草"}]}, "invalid lines.0.time"),
        ({"lines": [], "window_s": 0}, "invalid window_s"),
        ({"lines": [], "rule": "any"}, "invalid rule"),
        ({"lines": [], "windows": 5}, "invalid windows"),
        ({"lines": [], "threshold": 2}, "invalid threshold"),
    ],
)
async def test_what_is_invalid_is_named(client: httpx.AsyncClient, body: object, message: str) -> None:
    answer = await client.post("/merge", json=body)

    assert answer.status_code == 422
    assert message in answer.json()["error"]


async def test_opposites_are_related_and_spellings_the_same(client: httpx.AsyncClient) -> None:
    candidates = ["声音太大了", "声音太小了！！", "声音太小了"]
    answer = await client.post("/similar", json={"query": "声音太小了", "candidates": candidates})
    relations = {match["text"]: match["relation"] for match in answer.json()["results"][0]["matches"]}

    assert relations["声音太小了！！"] == relations["声音太小了"] == "same"
    assert relations["声音太大了"] != "same"
