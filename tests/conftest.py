"""Fixtures: a tiny model made by the training code, and applications around it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fakes import RecordingEncoder

from service.app import create_app
from service.metrics import Metrics
from service.settings import Settings
from service.tokenizer import SPECIAL_TOKENS

# A script starts what it puts into the background with SIGINT ignored, and what tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

WORDS = ("awsl", "aqua", "mea", "kk", "##sk", "2", "##3", "?", "!", ",")
CHARACTERS = "草哈阿夸晚安好来了我死谁你他她的笑可爱待机清楚天才"
TINY_VOCAB = [*SPECIAL_TOKENS, *WORDS, *CHARACTERS]


# Files that take longest start first, or one process would be idle while the other works through the last of them.
LONGEST = {
    *("test_docs.py", "test_package.py", "test_stores.py", "test_store_searches.py", "test_store_states.py"),
    *("test_milvus_store.py", "test_milvus_durability.py", "test_workers_fail.py", "test_gateway_fails.py"),
    *("test_redis_fails.py", "test_fuzz.py", "test_damage.py", "test_adversary.py", "test_replicas.py"),
    *("test_train.py", "test_embed.py", "test_worker.py", "test_remote.py", "test_page.py"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights: 3 layers × 16, 4 heads, 16 positions."""
    from service.model_directory import BertConfig
    from training.bert import checkpoint
    from training.bert.model import initial_values

    directory = tmp_path_factory.mktemp("models") / "tiny"
    directory.mkdir()
    config = BertConfig(
        vocab_size=len(TINY_VOCAB),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.5,  # large, so that differences between texts stand out of rounding
    )
    (directory / "bert_config.json").write_text(config.to_json(), encoding="utf-8")
    (directory / "vocab.txt").write_text("\n".join(TINY_VOCAB) + "\n", encoding="utf-8")
    checkpoint.save(directory, 1, initial_values(config, seed=7), {"global_step": 1})
    return directory


@pytest.fixture(autouse=True)
def ignore_environment_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the gateway settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("DANMAKU_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DANMAKU_COLLECTIONS", "none")  # by default they stand where the gateway is started


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def recording_encoder() -> RecordingEncoder:
    return RecordingEncoder()


@pytest.fixture
async def client(tiny_model: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of an application over the tiny model, with small limits."""
    settings = Settings(
        encoder=f"onnx://{tiny_model}", max_request_texts=50, max_queue_texts=60, max_body_bytes=20_000, threads=2
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield http


async def until_metric(http: httpx.AsyncClient, name: str, at_least: float) -> None:
    """Waits until a metric without labels has reached a value."""
    for _ in range(3000):
        lines = (await http.get("/metrics")).text.splitlines()
        if any(float(line.split()[1]) >= at_least for line in lines if line.startswith(f"{name} ")):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{name} did not reach {at_least}")


ClientOf = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def client_of(recording_encoder: RecordingEncoder) -> ClientOf:
    """Opens HTTP clients of applications that use the recording encoder, with any settings."""

    @asynccontextmanager
    async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(settings, encoder=recording_encoder)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        ):
            yield http

    return client


@pytest.fixture
async def recording_client(client_of: ClientOf) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of an application that uses the recording encoder, with the default settings."""
    async with client_of(Settings()) as http:
        yield http
