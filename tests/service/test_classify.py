"""POST /classify and /predict: labels from heads over the vectors that the gateway has anyway."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ClientOf, until_metric
from fakes import RecordingEncoder

from service.app import create_app
from service.errors import HeadError
from service.heads.folder import write_head
from service.heads.head import Encoder, Head, Weights
from service.settings import Settings

ENCODER = Encoder("recording", "f0", (-2,), "REDUCE_MEAN")
NDJSON = {"content-type": "application/x-ndjson"}


def make_head(labels: tuple[str, ...] = ("short", "long"), *, bias: float = 0.0, encoder: Encoder = ENCODER) -> Head:
    """Calls a text long if it has many characters for the sum of their codes, as `RecordingEncoder` makes vectors."""
    vector = np.zeros((2, len(labels)), np.float32)
    vector[0, 1] = 100.0
    biases = np.zeros(len(labels), np.float32)
    biases[0] = 0.5 + bias
    none = np.zeros((0, len(labels) + 1), np.float16)
    return Head(labels, encoder, Weights(vector, biases, np.zeros(0, np.uint32), none, unseen=1.0, bits=8))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "length", tmp_path / "spam"
    write_head(paths[0], make_head(), {}, "")
    write_head(paths[1], make_head(("no", "yes", "maybe")), {}, "")
    return paths


@pytest.fixture
async def http(client_of: ClientOf, folders: tuple[Path, Path]) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(Settings(heads=folders)) as client:
        yield client


async def test_every_text_has_a_label_and_probabilities_from_every_head(http: httpx.AsyncClient) -> None:
    body = (await http.post("/classify", json={"texts": ["!!!!", "草", " "]})).json()
    first, second, third = body["results"]

    assert list(body) == ["model", "fingerprint", "heads", "results", "truncated", "errors"]
    assert body["heads"] == {"length": make_head().version, "spam": make_head(("no", "yes", "maybe")).version}
    assert (first["length"]["label"], second["length"]["label"], third) == ("long", "short", None)
    assert list(first) == ["length", "spam"]
    assert list(first["spam"]["scores"]) == ["no", "yes", "maybe"]
    assert sum(first["spam"]["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert body["errors"] == [{"index": 2, "error": "the text is blank", "error_type": "empty_text"}]


async def test_heads_cost_no_model_call_and_work_on_cached_vectors(
    http: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    await http.post("/embed", json=["草"])
    answer = await http.post("/classify", json={"texts": ["草"], "heads": ["spam"]})

    assert list(answer.json()["results"][0]) == ["spam"]
    assert recording_encoder.calls == [["草"]]


async def test_a_stream_is_answered_line_by_line_with_the_same_labels(http: httpx.AsyncClient) -> None:
    lines = '"草"\n{"text": "!!!!", "id": 7}\n{"txt": 1}\n" "\n'
    answer = await http.post("/classify?heads=length", content=lines, headers=NDJSON)
    start, first, second, invalid, blank = map(json.loads, answer.text.splitlines())
    whole = (await http.post("/classify", json={"texts": ["草", "!!!!"], "heads": ["length"]})).json()

    assert start == {"model": "recording", "fingerprint": "f0", "heads": {"length": make_head().version}}
    assert [first["labels"], second["labels"]] == whole["results"]
    assert (second["index"], second["id"]) == (1, 7)
    assert (invalid["labels"], invalid["error_type"]) == (None, "invalid_request")
    assert (blank["labels"], blank["error_type"]) == (None, "empty_text")


async def test_predict_has_the_shape_of_text_embeddings_inference(http: httpx.AsyncClient) -> None:
    single = (await http.post("/predict", json={"inputs": "!!!!"})).json()
    batch = (await http.post("/predict", json={"inputs": [["!!!!"], ["草"]], "truncate": True})).json()
    options = {"raw_scores": True, "truncation_direction": "Right"}
    raw = (await http.post("/predict", json={"inputs": "!!!!"} | options)).json()
    other = (await http.post("/predict", json={"inputs": "!!!!", "head": "spam"})).json()

    assert [each["label"] for each in single] == ["long", "short"]
    assert single[0]["score"] + single[1]["score"] == pytest.approx(1, abs=1e-5)
    assert (batch[0], batch[1][0]["label"]) == (single, "short")
    assert raw[1]["score"] == 0.5
    assert len(other) == 3


async def test_input_is_answered_in_the_shape_of_vllm(http: httpx.AsyncClient) -> None:
    body = (await http.post("/classify", json={"input": ["!!!!", "草"], "model": "spam"})).json()

    assert (body["object"], body["model"]) == ("list", "spam")
    assert [each["label"] for each in body["data"]] == ["yes", "no"]
    assert [(each["index"], each["num_classes"], len(each["probs"])) for each in body["data"]] == [(0, 3, 3), (1, 3, 3)]


@pytest.mark.parametrize(
    ("path", "body", "status", "fault"),
    [
        ("/classify", {"texts": ["草"], "heads": ["span"]}, 404, "no head 'span'; expected one of length, spam"),
        ("/classify", {"texts": ["草"], "heads": []}, 422, "invalid heads"),
        ("/classify", {"texts": ["草"], "input": "草"}, 422, "expected either `texts` or `input`"),
        ("/classify", {"texts": ["草"], "model": "spam"}, 422, "`model` requires `input`"),
        ("/classify", {}, 422, "expected either `texts` or `input`"),
        ("/classify", {"input": [" "]}, 422, "input.0: the text is blank"),
        ("/predict", {"inputs": [["草", "好"]]}, 422, "invalid inputs.0: 2 texts; expected a list of one text"),
        ("/predict", {"inputs": ["草", "好"]}, 422, "invalid inputs"),
        ("/predict", {"inputs": "草", "head": "span"}, 404, "no head 'span'"),
        ("/classify?heads=span", None, 404, "no head 'span'"),
    ],
)
async def test_bad_requests_are_explained(
    http: httpx.AsyncClient, recording_encoder: RecordingEncoder, path: str, body: object, status: int, fault: str
) -> None:
    answer = await (http.post(path, json=body) if body is not None else http.post(path, content='"草"', headers=NDJSON))

    assert answer.status_code == status
    assert fault in answer.json()["error"]
    assert recording_encoder.calls == []


async def test_a_gateway_without_heads_says_how_to_get_one(recording_client: httpx.AsyncClient) -> None:
    answer = await recording_client.post("/classify", json={"texts": ["草"]})

    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")
    assert "--heads DIR loads" in answer.json()["error"]


async def test_info_and_metrics_name_the_heads(http: httpx.AsyncClient) -> None:
    await http.post("/classify", json={"texts": ["草", " "], "heads": ["spam"]})
    info, metrics = (await http.get("/info")).json(), (await http.get("/metrics")).text

    assert info["heads"]["length"] == {
        "version": make_head().version,
        "labels": ["short", "long"],
        "fingerprint": "f0",
    }
    assert 'danmaku_head_texts_total{head="spam"} 1.0' in metrics
    assert 'danmaku_head_texts_total{head="length"} 0.0' in metrics
    assert 'danmaku_requests_total{outcome="ok",route="/classify"} 1.0' in metrics


async def test_a_head_of_another_model_is_refused_at_the_start_with_both_fingerprints(
    folders: tuple[Path, Path], recording_encoder: RecordingEncoder
) -> None:
    write_head(folders[1], make_head(encoder=replace(ENCODER, fingerprint="f1")), {}, "")
    app = create_app(Settings(heads=folders), encoder=recording_encoder)

    with pytest.raises(HeadError, match="spam reads vectors of 'recording' with the fingerprint f1, but .* with f0;"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_head_is_refused_when_another_model_takes_over(
    http: httpx.AsyncClient, recording_encoder: RecordingEncoder
) -> None:
    recording_encoder.model = replace(recording_encoder.model, fingerprint="f1")
    answer = await http.post("/classify", json={"texts": ["草"]})

    assert (answer.status_code, answer.json()["error_type"]) == (409, "fingerprint_mismatch")


async def test_a_head_is_exchanged_while_requests_run_and_every_answer_names_its_version(
    http: httpx.AsyncClient, folders: tuple[Path, Path]
) -> None:
    """The labels of old and new differ, so an answer that names one version and has the other's label would show."""
    old, new = make_head(), make_head(bias=1000.0)
    labels = {old.version: "long", new.version: "short"}
    seen: list[str] = []
    has_begun, is_over = asyncio.Event(), asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            answer = await http.post("/classify", json={"texts": ["!!!!"]})
            assert answer.status_code == 200, answer.text
            version = answer.json()["heads"]["length"]
            assert answer.json()["results"][0]["length"]["label"] == labels[version]
            seen.append(version)
            has_begun.set()
            await asyncio.sleep(0)  # an answer from the cache gives nobody else a turn
            if version == new.version:
                is_over.set()

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    await has_begun.wait()
    await asyncio.to_thread(write_head, folders[0], new, {}, "")
    await asyncio.wait_for(asyncio.gather(*asking), 60)

    assert set(seen) == {old.version, new.version}
    assert 'danmaku_head_changes_total{head="length",result="exchanged"} 1.0' in (await http.get("/metrics")).text


async def test_a_newer_head_that_cannot_be_used_leaves_the_old_one(
    http: httpx.AsyncClient, folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "danmaku"):
        write_head(folders[0], make_head(encoder=replace(ENCODER, fingerprint="f1")), {}, "")
        await until_metric(http, 'danmaku_head_changes_total{head="length",result="refused"}', 1)
    body = (await http.post("/classify", json={"texts": ["草"]})).json()

    assert body["heads"]["length"] == make_head().version
    assert "is now for the fingerprint f1; expected f0" in caplog.text


async def test_a_head_whose_files_are_copied_one_by_one_is_read_once_it_is_whole(
    http: httpx.AsyncClient, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    new = make_head(bias=1000.0)
    write_head(tmp_path / "new", new, {}, "")
    (folders[0] / "weights.npz").write_bytes(b"PK\x03\x04 not yet whole")
    await until_metric(http, 'danmaku_head_changes_total{head="length",result="refused"}', 1)

    for name in ("head.json", "weights.npz"):
        shutil.copy(tmp_path / "new" / name, folders[0] / name)
    await until_metric(http, 'danmaku_head_changes_total{head="length",result="exchanged"}', 1)

    assert (await http.post("/classify", json={"texts": ["草"]})).json()["heads"]["length"] == new.version


async def test_labels_become_metadata_by_which_a_collection_is_searched(
    client_of: ClientOf, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    async with client_of(Settings(heads=folders, collections=f"sqlite://{tmp_path}/collections")) as http:
        await http.put("/collections/room")
        items = ["!!!!", {"text": "草", "metadata": {"room": 3}}, " "]
        added = await http.post("/collections/room/danmaku?heads=length", json=items)
        unknown = await http.post("/collections/room/danmaku?heads=span", json=items)
        search = {"query": "草", "collection": "room", "filter": {"length": "short"}}
        (result,) = (await http.post("/similar", json=search)).json()["results"]

    assert (added.json()["added"], added.json()["refused"]) == (2, 1)
    assert [(match["text"], match["metadata"]) for match in result["matches"]] == [
        ("草", {"room": 3, "length": "short"})
    ]
    assert unknown.status_code == 404


async def test_a_chat_is_labelled_as_it_goes_on(
    client_of: ClientOf, folders: tuple[Path, Path], recording_encoder: RecordingEncoder, tmp_path: Path
) -> None:
    async with client_of(Settings(heads=folders, collections=f"sqlite://{tmp_path}/collections")) as http:
        await http.put("/collections/room")
        observed = await http.post("/collections/room/observe?heads=length", json=["!!!!", " ", "草"])
        unknown = await http.post("/collections/room/observe?heads=span", json=["草"])
        search = {"query": "草", "collection": "room", "filter": {"length": "short"}}
        (result,) = (await http.post("/similar", json=search)).json()["results"]
        whole = (await http.post("/classify", json={"texts": ["!!!!", "草"], "heads": ["length"]})).json()
    first, blank, second = observed.json()["results"]

    assert [first["labels"], second["labels"]] == whole["results"]
    assert blank is None
    assert [match["text"] for match in result["matches"]] == ["草"]
    assert sum("草" in call for call in recording_encoder.calls) == 1  # embedded once
    assert unknown.status_code == 404


async def test_matches_have_labels_if_heads_are_asked_for(
    client_of: ClientOf, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    async with client_of(Settings(heads=folders, collections=f"sqlite://{tmp_path}/collections")) as http:
        await http.put("/collections/room")
        await http.post("/collections/room/danmaku", json=["!!!!", "草"])
        (classified,) = (await http.post("/classify", json={"texts": ["!!!!"], "heads": ["length"]})).json()["results"]
        for place in ({"collection": "room"}, {"candidates": ["草", "!!!!"]}):
            answer = await http.post("/similar", json={"query": "!!!!", **place, "heads": ["length"]})
            without = await http.post("/similar", json={"query": "!!!!", **place})
            unknown = await http.post("/similar", json={"query": "!!!!", **place, "heads": ["span"]})
            (result,) = answer.json()["results"]

            assert (result["matches"][0]["text"], result["matches"][0]["labels"]) == ("!!!!", classified)
            assert "labels" not in without.json()["results"][0]["matches"][0]
            assert unknown.status_code == 404
