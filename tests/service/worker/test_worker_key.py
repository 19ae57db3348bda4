"""Workers that require a key: who gets an answer, and what the others are told."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import danmaku
from peers import peer
from processes import RunningWorker, working
from stored import until

from service.encoders.open import EncoderSettings, open_encoder
from service.errors import ConfigurationError
from service.metrics import Metrics
from service.wire import SHOW_STATUS, write_command

PUBLIC = 'curve\n    public-key = "%s"\n'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        done = danmaku("key", "--worker", directory / name)
        assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def worker(tiny_model: Path, keys: Path) -> Iterator[RunningWorker]:
    secret = keys / "ours" / "worker.key_secret"
    with working(
        tiny_model, "-max_seq_len", "12", "-key_file", str(secret), key_file=keys / "ours" / "worker.key"
    ) as worker:
        yield worker


async def test_a_gateway_with_the_key_gets_vectors(worker: RunningWorker, keys: Path) -> None:
    settings = EncoderSettings(worker_key_file=keys / "ours" / "worker.key")
    encoder = await open_encoder(worker.url, settings, Metrics())
    try:
        await until(lambda: not encoder.obstacle)
        vectors = await encoder.encode(encoder.model.reader.prepare_normalized(["草"]))
    finally:
        await encoder.aclose()

    assert vectors.shape == (1, 16)


@pytest.mark.parametrize("key", [None, "other"])
async def test_a_gateway_without_the_key_is_refused(worker: RunningWorker, keys: Path, key: str | None) -> None:
    settings = EncoderSettings(worker_key_file=keys / key / "worker.key" if key else None)
    encoder = await open_encoder(worker.url, settings, Metrics())
    try:
        await until(lambda: "refused the connection; expected worker_key_file" in (encoder.obstacle or ""))
    finally:
        await encoder.aclose()


def test_a_client_without_a_key_gets_no_answer(worker: RunningWorker, keys: Path) -> None:
    with peer(worker) as it:
        it.requests.send_multipart(write_command(it.identity, 1, SHOW_STATUS))
        # Until the worker has answered somebody who asked later.
        assert (
            danmaku("check", worker.url, "--key-file", keys / "ours" / "worker.key", "--timeout-s", 60).returncode == 0
        )

        assert it.receive(timeout_s=0.5) is None
    assert danmaku("check", worker.url, "--timeout-s", 0.5).returncode == 1


def test_key_files_are_private_and_never_replaced(keys: Path) -> None:
    files = sorted((keys / "ours").iterdir())
    before = [path.read_bytes() for path in files]

    done = danmaku("key", "--worker", keys / "ours")

    assert [path.name for path in files] == ["worker.key", "worker.key_secret"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]
    assert done.returncode == 1 and "already exists" in done.stderr
    assert [path.read_bytes() for path in files] == before


@pytest.mark.parametrize("content", ["", "草", PUBLIC % "short", PUBLIC % ("草" * 40), PUBLIC % ("a" * 39)])
async def test_an_invalid_key_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "worker.key"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(ConfigurationError, match=f"invalid key file: {path}"):
        await open_encoder("bert://127.0.0.1:1", EncoderSettings(worker_key_file=path), Metrics())


def test_a_worker_needs_the_secret_half(tiny_model: Path, keys: Path) -> None:
    done = danmaku("worker", "-model_dir", tiny_model, "-max_seq_len", "12", "-key_file", keys / "ours" / "worker.key")

    assert done.returncode == 1 and "has no secret key; expected the file *.key_secret" in done.stderr


async def test_a_key_file_where_nothing_is_encrypted_is_refused(tiny_model: Path, keys: Path) -> None:
    key = keys / "ours" / "worker.key"

    with pytest.raises(ConfigurationError, match="invalid worker_key_file for encoder 'onnx://"):
        await open_encoder(f"onnx://{tiny_model}", EncoderSettings(worker_key_file=key), Metrics())
    done = danmaku("check", "http://127.0.0.1:1", "--key-file", key)

    assert done.returncode == 1 and "invalid --key-file for http://127.0.0.1:1" in done.stderr
