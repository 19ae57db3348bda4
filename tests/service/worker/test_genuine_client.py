"""Every method of the genuine, unmodified bert-serving-client 1.10 against our worker."""

from __future__ import annotations

import base64
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bert_serving.client import BertClient, ConcurrentBertClient
from processes import RunningWorker, working

from service.encoders.onnx import OnnxEncoder
from service.encoders.options import EncoderOptions

TEXTS = ["草", "awsl", "哈哈哈哈", "阿夸aqua", "晚安 晚安", "2333"]


@pytest.fixture(scope="module")
def worker(tiny_model: Path) -> Iterator[RunningWorker]:
    with working(tiny_model, "-max_seq_len", "12", "-show_tokens_to_client") as worker:
        yield worker


@pytest.fixture
def client(worker: RunningWorker) -> Iterator[BertClient]:
    with worker.client() as client:
        yield client


def expected(model: Path, texts: list[str]) -> np.ndarray:
    encoder = OnnxEncoder.open(model, EncoderOptions(max_seq_len=12), threads=1)
    try:
        return encoder.encode_now(encoder.inputs.prepare_texts(texts))
    finally:
        encoder.close()


def test_encode_gives_the_vectors_of_the_texts_in_order(client: BertClient, tiny_model: Path) -> None:
    vectors = client.encode(TEXTS)

    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(tiny_model, TEXTS), atol=1e-6)


def test_a_long_list_is_complete_and_in_order(client: BertClient, tiny_model: Path) -> None:
    """It consists of several slices, each sorted by length on its way."""
    texts = [TEXTS[index % len(TEXTS)] for index in range(5000)]

    vectors = client.encode(texts)

    np.testing.assert_allclose(vectors, np.tile(expected(tiny_model, TEXTS), (834, 1))[:5000], atol=1e-6)


def test_encode_shows_the_tokens(client: BertClient) -> None:
    vectors, tokens = client.encode(["awsl 草", "未知"], show_tokens=True)

    assert vectors.shape == (2, 16)
    assert tokens == [["[CLS]", "awsl", "草", "[SEP]"], ["[CLS]", "[UNK]", "[UNK]", "[SEP]"]]


def test_encode_accepts_tokens(client: BertClient) -> None:
    """Tokens that are not in the vocabulary become [UNK], as with the genuine server."""
    vectors, tokens = client.encode([["awsl", "草"], ["AWSL"]], is_tokenized=True, show_tokens=True)

    assert tokens == [["[CLS]", "awsl", "草", "[SEP]"], ["[CLS]", "[UNK]", "[SEP]"]]
    np.testing.assert_allclose(vectors[0], client.encode(["awsl 草"])[0], atol=1e-6)


def test_vectors_can_be_returned_as_lists(worker: RunningWorker) -> None:
    with worker.client(output_fmt="list") as client:
        vectors = client.encode(["草"])

    assert isinstance(vectors, list) and len(vectors[0]) == 16


def test_fetch_yields_pending_answers(client: BertClient) -> None:
    for text in TEXTS:
        assert client.encode([text], blocking=False) is None

    fetched = dict((answer.id, answer.embedding) for answer in client.fetch())

    vectors = client.encode(TEXTS)
    for index, request_id in enumerate(sorted(fetched)):
        np.testing.assert_allclose(fetched[request_id][0], vectors[index], atol=1e-6)


def test_fetch_all_sorts_and_concatenates(client: BertClient) -> None:
    for text in TEXTS:
        client.encode([text, text], blocking=False)

    vectors = client.fetch_all(sort=True, concat=True)

    np.testing.assert_allclose(vectors, np.repeat(client.encode(TEXTS), 2, axis=0), atol=1e-6)


def test_thousands_of_answers_wait_until_they_are_fetched(client: BertClient) -> None:
    """The genuine server drops those beyond the first 1,000 or 2,000."""
    for index in range(5000):
        client.encode([TEXTS[index % len(TEXTS)]], blocking=False)

    assert client.fetch_all(concat=True).shape == (5000, 16)


def test_encode_async_encodes_what_a_generator_yields(client: BertClient) -> None:
    batches = itertools.repeat(TEXTS)

    answers = list(client.encode_async(batches, max_num_batch=5, delay=0.5))

    assert [answer.embedding.shape for answer in answers] == [(6, 16)] * 5


def test_the_client_warns_of_texts_that_are_too_long(client: BertClient) -> None:
    """It counts with max_seq_len of the configuration."""
    with pytest.warns(UserWarning, match='more tokens than "max_seq_len=12"'):
        client.encode([" ".join("草" * 13)])


def test_a_worker_without_max_seq_len_reports_none(tiny_model: Path) -> None:
    with (
        working(tiny_model, "-max_seq_len", "NONE") as worker,
        worker.client() as client,
        pytest.warns(UserWarning, match="does not put a restriction"),
    ):
        client.encode(["草"])


def test_the_configuration_has_all_genuine_fields(client: BertClient, worker: RunningWorker) -> None:
    frames = json.loads((Path(__file__).parents[2] / "data/wire/frames.json").read_text(encoding="utf-8"))
    genuine = json.loads(base64.b64decode(frames["answers"][0][1]))

    config = client.server_config

    assert genuine.keys() - config.keys() == set()
    assert config["server_version"] == "1.10.0"
    assert (config["max_seq_len"], config["pooling_layer"], config["pooling_strategy"]) == (12, [-2], 2)
    assert (config["port"], config["show_tokens_to_client"]) == (worker.port, True)


def test_the_status_counts_requests_and_texts(tiny_model: Path) -> None:
    with working(tiny_model, "-max_seq_len", "12") as worker, worker.client() as client:
        client.encode(TEXTS)
        client.encode(["草"])

        status = client.server_status

    statistic = status["statistic"]
    assert (statistic["num_data_request"], statistic["num_total_seq"]) == (2, 7)
    assert statistic["num_total_request"] == statistic["num_data_request"] + statistic["num_sys_request"]
    assert (statistic["min_size_per_request"], statistic["max_size_per_request"]) == (1, 6)
    assert statistic["avg_size_per_request"] == 3.5
    assert statistic["num_active_client"] == 1
    assert (status["in_progress"], status["obstacle"]) == (0, None)


def test_a_client_without_a_worker_times_out() -> None:
    client = BertClient(port=1, port_out=2, timeout=100, ignore_all_checks=True)
    with client, pytest.raises(TimeoutError):
        client.encode(["草"])


def test_one_client_object_serves_several_threads(worker: RunningWorker) -> None:
    from concurrent.futures import ThreadPoolExecutor

    client = ConcurrentBertClient(max_concurrency=4, port=worker.port, port_out=worker.port_out, timeout=20_000)
    with ThreadPoolExecutor(4) as threads:
        vectors = list(threads.map(lambda text: client.encode(texts=[text])[0], TEXTS * 10))
    config, status = client.server_config, client.server_status
    client.close()

    assert config["server_version"] == "1.10.0" and status["statistic"]["num_data_request"] >= 60
    with worker.client() as single:
        np.testing.assert_allclose(vectors, np.tile(single.encode(TEXTS), (10, 1)), atol=1e-6)


def test_two_clients_of_one_identity_both_get_the_answer(worker: RunningWorker) -> None:
    """This is the genuine server's multicast."""
    settings = {"identity": b"shared", "ignore_all_checks": True}
    with worker.client(**settings) as asking, worker.client(**settings) as listening:
        while not asking.receiver.poll(100):  # what its namesake gets tells that both are listened to
            listening.encode(["晚安"])
        while asking.receiver.poll(100):
            asking.receiver.recv_multipart()
        asking.request_id = listening.request_id
        asking.encode(["草"], blocking=False)
        listening.pending_request.add(asking.request_id)

        (one,), (other,) = asking.fetch_all(), listening.fetch_all()

    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("identity", [b"user#1", b"user@example.org", "阿夸".encode()])
def test_identities_that_crash_the_genuine_server_are_served(worker: RunningWorker, identity: bytes) -> None:
    with worker.client(identity=identity) as client:
        assert client.encode(["草"]).shape == (1, 16)


def test_the_client_shows_why_a_request_was_refused(client: BertClient) -> None:
    """The protocol has no errors; with the genuine server the client would wait forever."""
    request = client._send(b"not JSON", 1)

    with pytest.raises(TypeError, match="invalid second frame: not JSON"):
        client._recv_ndarray(request)
    with warnings.catch_warnings():
        assert client.encode(["草"]).shape == (1, 16)
