"""Every knob: its type, its default, and when to change it.

Read once, at the edge: a flag of `danmaku serve`, its field here and its environment variable `DANMAKU_<FIELD>` are one
word. A flag beats the variable, the variable beats the default. Inner objects take plain arguments.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Several are written as in a flag, with spaces: DANMAKU_POOLING_LAYER="-1 -2".
Layers = Annotated[
    tuple[int, ...], NoDecode, BeforeValidator(lambda value: value.split() if isinstance(value, str) else value)
]


def _words(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _key_hashes(hashes: tuple[str, ...]) -> tuple[str, ...]:
    for number, entry in enumerate(hashes, 1):
        if not re.fullmatch("[0-9a-fA-F]{64}", entry):  # not shown: it may be the key itself
            raise ValueError(f"number {number} is no SHA-256 in hex, 64 digits; `danmaku key` prints one with its key")
    return tuple(entry.lower() for entry in hashes)


def _origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for number, origin in enumerate(origins, 1):
        if origin != "*" and not re.fullmatch("https?://[^/@\\s]+", origin):
            raise ValueError(f"number {number} is no origin; expected https://example.com, without a path, or *")
    return origins


# Separated by spaces or commas.
KeyHashes = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words), AfterValidator(_key_hashes)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words), AfterValidator(_origins)]


class Settings(BaseSettings):
    # Inputs are hidden in errors, since they may be secret.
    model_config = SettingsConfigDict(env_prefix="DANMAKU_", extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on. 0.0.0.0 to be reached from other machines.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    api_key_hashes: KeyHashes = Field(
        (),
        description="SHA-256 of the API keys that are let in, in hex, separated by spaces or commas; none: whoever "
        "reaches the port is let in. `danmaku key` makes a key and its hash.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Whether to listen on other addresses than loopback without API keys. Only true where something in "
        "front of the gateway asks who it is.",
    )
    cors_origins: Origins = Field(
        (),
        description="Web pages whose scripts may ask, such as https://example.com, separated by spaces or commas; "
        "* for any.",
    )
    encoder: str = Field(
        "onnx://models/danmaku-bert-mini",
        description="What encodes: onnx://DIRECTORY, in this process; bert://HOST:5555:5556,OTHER:5555:5556, workers; "
        "bert+dns://NAME:5555:5556, all workers at the addresses of a name. Change it to serve your own model.",
    )
    pooling_layer: Layers = Field(
        (-2,),
        description="Layers that a vector is made of, from the end: -1 is the last; several are concatenated. "
        "As bert-as-service's. Changing it changes the fingerprint.",
    )
    pooling_strategy: Literal["REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN"] = Field(
        "REDUCE_MEAN", description="How token vectors become one. As bert-as-service's. Changes the fingerprint."
    )
    max_seq_len: int | None = Field(
        None,
        ge=3,
        description="Tokens kept of a text, [CLS] and [SEP] included; default: all that the model has positions for. "
        "Lower it to bound the cost of long texts. Changes the fingerprint.",
    )
    precision: Literal["float32", "int8"] = Field(
        "float32",
        description="int8 is quicker, with nearly the same vectors; where they are not, the start fails. Changes the "
        "fingerprint.",
    )
    threads: int = Field(
        default_factory=lambda: (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ),
        ge=1,
        description="Model calls at the same time, one thread each; default: the cores this process may use. "
        "Lower it to leave cores to others.",
    )
    max_batch_tokens: int = Field(
        1024,
        ge=1,
        description="Tokens of one model call. More is slower on CPU: the cache overflows.",
    )
    max_queue_texts: int = Field(
        20_000,
        ge=1,
        description="Texts that may wait for the encoder; beyond, requests are answered 429. Raise it to ride out "
        "bursts, lower it to be told sooner.",
    )
    max_request_texts: int = Field(
        10_000, ge=1, description="Texts of one request; beyond, 413. At most max_queue_texts, or it could never pass."
    )
    max_text_characters: int = Field(
        10_000,
        ge=1,
        description="Characters of one text; a longer one gets no vector and the reason `text_too_long`, beside the "
        "others. What the model cannot take of a text is cut off in any case, so raising it buys nothing but work.",
    )
    max_body_bytes: int = Field(
        16 * 2**20,
        ge=1,
        description="Size of a request's body, unpacked if it is gzip, or of a stream's line; beyond, 413.",
    )
    gzip_level: int = Field(
        0,
        ge=0,
        le=9,
        description="How hard answers are compressed for clients that take gzip, which is nearly all, unasked; 0: not. "
        "Level 1 makes 16 vectors of 256 in JSON 22 KB of 45 in 0.35 ms, in base64 17 KB of 22 in 0.2 ms: more "
        "than such an answer costs from the cache. Turn it on for clients behind a slow network.",
    )
    collections: str = Field(
        "sqlite://danmaku-collections",
        description="Where collections are kept: sqlite:///DIRECTORY, of one gateway (sqlite://DIRECTORY is below "
        "where it is started); redis://HOST:6379/0, a Redis 8 or a cluster that several gateways share; none turns "
        "them off. The directory by default may be unusable: then there are none.",
    )
    cache: str = Field(
        "memory://",
        description="Where vectors of texts seen before are kept: memory://, this process, or redis://HOST:6379/0, "
        "which several gateways share, behind this process's memory.",
    )
    cache_ttl_s: int = Field(
        7 * 24 * 3600, ge=1, description="How long Redis keeps a vector. Lower it if Redis fills with what nobody asks."
    )
    cache_format: Literal["float32", "float16"] = Field(
        "float32", description="Numbers in Redis. float16 takes half the room, for three correct digits."
    )
    cache_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Memory for vectors of texts seen before; 0 turns the cache off. 256 MiB hold some 200,000 texts "
        "of 256 dimensions, 80,000 of 768.",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        description="How long a request may wait for the encoder; beyond, 504. A request's X-Timeout-Ms makes it less.",
    )
    receive_timeout_s: float = Field(
        20.0,
        gt=0,
        description="How long a client may keep the gateway waiting for a request's head or body; beyond, 408. "
        "Raise it for clients on very slow lines.",
    )
    access_log: bool = Field(
        True, description="A JSON line on stdout for every request. Turn it off to save some microseconds for each."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Of all other logs, on stderr: text for a person, json lines for a collector of logs."
    )
    tracing: bool = Field(
        False,
        description="Whether to send spans of requests by OpenTelemetry, to where OTEL_EXPORTER_OTLP_ENDPOINT says. "
        "Needs pip install 'danmaku-embedding[otel]'. Turn it on to see requests among those of other services.",
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="How long to serve on after SIGTERM, with /readyz saying 503, before no more is taken. Some "
        "seconds behind a load balancer, which has to notice.",
    )
    shutdown_timeout_s: int = Field(
        20, ge=0, description="How long requests in progress may take to finish after SIGTERM and drain_s."
    )

    @model_validator(mode="after")
    def _one_request_fits_the_queue(self) -> Settings:
        if self.max_request_texts > self.max_queue_texts:
            raise ValueError(
                f"max_request_texts {self.max_request_texts} is above max_queue_texts {self.max_queue_texts}: "
                "such a request could never be accepted"
            )
        return self
