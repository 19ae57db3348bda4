"""POST /classify and POST /predict: label danmaku with heads over the vectors of POST /embed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.api.http.caller import Caller
from service.api.http.headers import NDJSON, is_ndjson
from service.api.http.responses import ERRORS, PlainRoute, json_response
from service.api.http.schemas import Body, ErrorBody, LabelBody, TextErrorBody, Texts, describe_query
from service.api.http.state import State, get_state
from service.api.stream import EmbedStream, refuse_options
from service.api.vectors import embed_whole
from service.collections.collections import Entry
from service.embedder import MANY_CHARACTERS, Embeddings
from service.errors import InvalidRequest
from service.heads.head import Head, to_probabilities
from service.tasks import run_in_thread_if

DIGITS = 6  # of a probability
ABOUT_HEADS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorBody, "description": "No such head, or this gateway has none."},
    409: {"model": ErrorBody, "description": "The head belongs to another model."},
}

router = APIRouter(tags=["classification"], route_class=PlainRoute)


class ClassifyRequest(Body):
    """Texts for `heads`, or `input` and `model` as vLLM's clients send them."""

    texts: Texts | None = Field(None, examples=[["这是什么歌", "草"]])
    heads: Texts | None = Field(
        None, examples=[["question"]], min_length=1, description="Names of heads; all by default."
    )
    input: str | Texts | None = Field(None, description="Used instead of `texts`; the response then has vLLM's format.")
    model: str | None = Field(None, description="Name of the head for `input`; the first one by default.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.texts is None) == (self.input is None):
            raise PydanticCustomError("one_of", "expected either `texts` or `input`")
        if (self.heads if self.texts is None else self.model) is not None:
            raise PydanticCustomError("heads", "`heads` requires `texts`, and `model` requires `input`")
        return self


class ClassifyOptions(BaseModel, extra="forbid"):
    """The options of a stream in the query."""

    heads: str | None = Field(None, description="For an NDJSON stream: names separated by commas; all by default.")


class ClassifyResponse(BaseModel):
    model: str
    fingerprint: str
    heads: dict[str, str] = Field(description="The version of each head; equal versions give equal scores.")
    results: list[dict[str, LabelBody] | None] = Field(
        description="One per text, in order, by the name of the head; null for texts in `errors`."
    )
    truncated: list[int] = Field(description="Indices of texts that exceed the model's limit and were truncated.")
    errors: list[TextErrorBody]


class PredictRequest(Body):
    """A request in the format of text-embeddings-inference, which ignores other fields."""

    model_config = ConfigDict(extra="ignore")

    inputs: str | list[Texts] = Field(examples=["这是什么歌"], description="A text, or a list of lists of one text.")
    raw_scores: bool = Field(False, description="Return scores instead of probabilities.")
    truncate: bool = Field(True, description="Ignored: texts that are too long are always truncated.")
    head: str | None = Field(None, description="Name of the head; the first of `--heads` by default.")


class PredictionBody(BaseModel):
    score: float
    label: str


@router.post(
    "/classify",
    openapi_extra={
        **ClassifyRequest.openapi({NDJSON: {"type": "string"}}),
        "parameters": describe_query(ClassifyOptions),
    },
    responses={**ERRORS, **ABOUT_HEADS, 200: {"model": ClassifyResponse}},
)
async def classify(request: Request) -> Response:
    """Returns the labels of texts, in their order, from one head or several.

    A text that cannot be embedded has `null` in its place and an entry in `errors`. NDJSON, a line per text as for
    `POST /embed`, gets a line `{"index", "id", "labels"}` for each; the first line names the heads and their versions.
    With `input`, as vLLM's clients send it, the response has vLLM's format.
    """
    if is_ndjson(request.scope):
        return ClassifyStream(request)
    refuse_options(request, ClassifyOptions)
    caller, state = Caller(request), get_state(request)
    body = await ClassifyRequest.read(request)
    if body.texts is None:
        return await _classify_as_vllm(caller, state, body)
    state.accept_texts(len(body.texts))
    state.heads.select(body.heads, state.embedder.model)  # before anything is encoded
    embeddings = await caller.wait(state.embedder.embed(body.texts))
    heads = state.heads.select(body.heads, embeddings.model)
    results = await _label(state, heads, body.texts, embeddings)
    model = embeddings.model
    return json_response(
        {
            "model": model.name,
            "fingerprint": model.fingerprint,
            "heads": _list_versions(heads),
            "results": results,
            "truncated": embeddings.truncated,
            "errors": embeddings.errors,
        }
    )


class ClassifyStream(EmbedStream):
    """The response to a stream of texts; it uses the heads that it began with to the end."""

    options_type = ClassifyOptions
    result = "labels"

    def __init__(self, request: Request) -> None:
        """Raises NotFound and FingerprintMismatch, besides what `EmbedStream` raises."""
        super().__init__(request)
        assert isinstance(self._options, ClassifyOptions)
        names = self._options.heads.split(",") if self._options.heads is not None else None
        self._heads = self._state.heads.select(names, self._model)

    def _describe_start(self) -> dict[str, object]:
        return {
            "model": self._model.name,
            "fingerprint": self._model.fingerprint,
            "heads": _list_versions(self._heads),
        }

    def _make_results(self, texts: Sequence[str], embeddings: Embeddings) -> Sequence[object]:
        return _label_now(self._state, self._heads, texts, embeddings)


@router.post(
    "/predict",
    openapi_extra=PredictRequest.openapi(),
    responses={**ERRORS, **ABOUT_HEADS, 200: {"model": list[PredictionBody] | list[list[PredictionBody]]}},
)
async def predict(request: Request) -> Response:
    """Returns the labels of a text, the most probable first, as text-embeddings-inference does.

    `inputs` is a text, or a list of lists of one text each, which is answered with a list of lists. Pairs of texts are
    refused. A text without a vector fails its list.
    """
    caller, state = Caller(request), get_state(request)
    body = await PredictRequest.read(request)
    is_single = isinstance(body.inputs, str)
    texts = [body.inputs] if isinstance(body.inputs, str) else _take_only(body.inputs)
    head, scores = await _score_all(caller, state, body.head, texts, "inputs")
    values = scores if body.raw_scores else to_probabilities(scores)
    predictions = [
        [{"score": score, "label": label} for score, label in sorted(zip(row, head.labels, strict=True), reverse=True)]
        for row in _round(values)
    ]
    return json_response(predictions[0] if is_single else predictions)


async def _classify_as_vllm(caller: Caller, state: State, body: ClassifyRequest) -> Response:
    assert body.input is not None
    texts = [body.input] if isinstance(body.input, str) else body.input
    head, scores = await _score_all(caller, state, body.model, texts, "input")
    data = [
        {"index": index, "label": head.labels[int(np.argmax(row))], "probs": row, "num_classes": len(row)}
        for index, row in enumerate(_round(to_probabilities(scores)))
    ]
    name = body.model or next(iter(state.heads.loaded))
    return json_response(
        {
            "id": f"classify-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": name,
            "data": data,
        }
    )


async def _score_all(
    caller: Caller, state: State, name: str | None, texts: Sequence[str], field: str
) -> tuple[Head, np.ndarray]:
    """Returns a head, the first by default, and its scores [n, labels]. Raises NoVector for a text without a vector."""
    state.accept_texts(len(texts))
    names = [name] if name is not None else list(state.heads.loaded)[:1]
    state.heads.select(names, state.embedder.model)
    embeddings = await caller.wait(embed_whole(state, texts, field))
    ((name, head),) = state.heads.select(names, embeddings.model).items()
    is_long = sum(map(len, texts)) > MANY_CHARACTERS
    scores = await run_in_thread_if(is_long, lambda: head.score(texts, embeddings.vectors))
    state.metrics.classified[name].inc(len(texts))
    return head, scores


async def _label(state: State, heads: Mapping[str, Head], texts: Sequence[str], embeddings: Embeddings) -> list[Any]:
    is_long = sum(map(len, texts)) > MANY_CHARACTERS
    return await run_in_thread_if(is_long, lambda: _label_now(state, heads, texts, embeddings))


async def label_texts(state: State, names: Sequence[str], texts: Sequence[str]) -> list[Any]:
    """Returns the labels of each text as `POST /classify` does, for other routes. Raises the same errors."""
    state.heads.select(names, state.embedder.model)
    embeddings = await state.embedder.embed(texts)
    return await _label(state, state.heads.select(names, embeddings.model), texts, embeddings)


async def add_labels(state: State, names: Sequence[str], entries: Sequence[Entry]) -> tuple[list[Entry], list[Any]]:
    """Adds the labels of danmaku to their metadata, under the names of the heads; also returns what they are."""
    labels = await label_texts(state, names, [entry.text for entry in entries])
    labelled = [
        replace(entry, metadata={**entry.metadata, **{name: said["label"] for name, said in (each or {}).items()}})
        for entry, each in zip(entries, labels, strict=True)
    ]
    return labelled, labels


def _label_now(state: State, heads: Mapping[str, Head], texts: Sequence[str], embeddings: Embeddings) -> list[Any]:
    """Returns for each text the label and the probabilities by head, or None without a vector."""
    places = [place for place, row in enumerate(embeddings.rows) if row is not None]
    rows = b"".join([row for row in embeddings.rows if row is not None])
    vectors = np.frombuffer(rows, "<f4").reshape(len(places), embeddings.model.dim)
    known = [texts[place] for place in places]
    results: list[Any] = [None if row is None else {} for row in embeddings.rows]
    for name, head in heads.items():
        probabilities = to_probabilities(head.score(known, vectors))
        best = probabilities.argmax(1).tolist() if known else []
        for place, label, row in zip(places, best, _round(probabilities), strict=True):
            results[place][name] = {
                "label": head.labels[label],
                "scores": dict(zip(head.labels, row, strict=True)),
            }
        state.metrics.classified[name].inc(len(known))
    return results


def _round(values: np.ndarray) -> list[list[float]]:
    rounded: list[list[float]] = np.round(values.astype(np.float64), DIGITS).tolist()
    return rounded


def _list_versions(heads: Mapping[str, Head]) -> dict[str, str]:
    return {name: head.version for name, head in heads.items()}


def _take_only(inputs: Sequence[Sequence[str]]) -> list[str]:
    """Returns the texts of lists of one text each. Raises InvalidRequest."""
    for place, texts in enumerate(inputs):
        if len(texts) != 1:
            raise InvalidRequest(f"invalid inputs.{place}: {len(texts)} texts; expected a list of one text, not a pair")
    return [text for (text,) in inputs]
