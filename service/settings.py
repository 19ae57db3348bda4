"""All settings of the gateway: type, default, and when to change them.

They are read once, at the edge: a flag of `danmaku serve`, its field here and its environment variable
`DANMAKU_<FIELD>` have the same name. A flag overrides the variable, which overrides the default. Inner objects take
plain arguments.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.cores import count_cores

# Several layers are separated by spaces, as in a flag: DANMAKU_POOLING_LAYER="-1 -2".
Layers = Annotated[
    tuple[int, ...] | None, NoDecode, BeforeValidator(lambda value: value.split() if isinstance(value, str) else value)
]


def _split_words(value: object) -> object:
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _check_key_hashes(hashes: tuple[str, ...]) -> tuple[str, ...]:
    for number, entry in enumerate(hashes, 1):
        if not re.fullmatch("[0-9a-fA-F]{64}", entry):  # not quoted: it may be the key itself
            raise ValueError(f"invalid hash {number}: expected a SHA-256 of 64 hex digits, as `danmaku key` prints")
    return tuple(entry.lower() for entry in hashes)


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for number, origin in enumerate(origins, 1):
        if origin != "*" and not re.fullmatch("https?://[^/@\\s]+", origin):
            raise ValueError(f"invalid origin {number}: expected https://example.com, without a path, or *")
    return origins


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for number, host in enumerate(hosts, 1):
        if host != "*" and not re.fullmatch("[A-Za-z0-9.-]+", host):
            raise ValueError(f"invalid host {number}: expected embed.example.com, without a port, or *")
    return tuple(host.lower() for host in hosts)


# Separated by spaces or commas.
Folders = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split_words)]
KeyHashes = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words), AfterValidator(_check_key_hashes)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words), AfterValidator(_check_hosts)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words), AfterValidator(_check_origins)]


class Settings(BaseSettings):
    # Errors do not quote inputs, which may be secret.
    model_config = SettingsConfigDict(env_prefix="DANMAKU_", extra="forbid", hide_input_in_errors=True)

    host: str = Field(
        "127.0.0.1",
        description="Address to listen on. 0.0.0.0 makes the gateway reachable from other machines.",
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 chooses a free one and logs it.")
    ops_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port for /healthz, /readyz and /metrics alone, so that no number of other connections keeps "
        "probes out. The main port has them, too.",
    )
    max_connections: int = Field(
        2048,
        ge=1,
        description="Maximum open connections; beyond that, the oldest without a request is closed for a new one. The "
        "gateway raises its limit of descriptors to this, and lowers this to what the system allows.",
    )
    api_key_hashes: KeyHashes = Field(
        (),
        description="SHA-256 hashes in hex of the valid API keys, separated by spaces or commas. Without any, no key "
        "is needed. `danmaku key` makes a key and its hash.",
    )
    api_keys_file: str | None = Field(
        None,
        description="TOML file of API keys with names, each with a rate, a daily quota and what it may use; "
        "docs/security.md describes it. They are valid beside those of --api-key-hashes.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Allows listening on addresses other than loopback without API keys. Enable it only if something "
        "in front of the gateway authenticates clients.",
    )
    cors_origins: Origins = Field(
        (),
        description="Origins of web pages whose scripts may use the gateway, such as https://example.com, separated "
        "by spaces or commas; * allows any.",
    )
    allowed_hosts: Hosts = Field(
        (),
        description="Host names that requests may be for, such as embed.example.com, separated by spaces or commas; * "
        "allows any. Addresses and names without a dot are always allowed, and without this setting any host is if "
        "there are API keys. It keeps web pages from posing as the gateway's own by DNS rebinding.",
    )
    encoder: str = Field(
        "onnx://models/danmaku-bert-mini",
        description="The encoder: onnx://DIRECTORY runs a model in this process; "
        "bert://HOST:5555:5556,OTHER:5555:5556 uses workers; bert+dns://NAME:5555:5556 uses the workers at all "
        "addresses of a name. Change it to serve your own model.",
    )
    worker_key_file: Path | None = Field(
        None,
        description="worker.key, the public half of the key files that `danmaku key --worker` makes, for workers that "
        "were started with -key_file; connections to them are encrypted.",
    )
    pooling_layer: Layers = Field(
        None,
        description="Layers that vectors are taken from, counted from the end: -1 is the last; several are "
        "concatenated. By default what the model says: a directory of Hugging Face's layout, -1; another, -2, as in "
        "bert-as-service. Changes the fingerprint.",
    )
    pooling_strategy: Literal["REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN"] | None = Field(
        None,
        description="How token vectors are combined. By default what the model says, or REDUCE_MEAN, as in "
        "bert-as-service. Changes the fingerprint.",
    )
    heads: Folders = Field(
        (),
        description="Folders of classifiers for POST /classify, written by `danmaku-train classify` for this encoder. "
        "A folder that is replaced is read again while the gateway runs.",
    )
    max_seq_len: int | None = Field(
        None,
        ge=3,
        description="Maximum tokens of a text, including [CLS] and [SEP]; by default what the model says, or as many "
        "as it has positions. Lower it to limit the cost of long texts. Changes the fingerprint.",
    )
    precision: Literal["float32", "bfloat16", "float16", "int8"] = Field(
        "float32",
        description="How exactly the model computes. bfloat16 and int8 are faster on a CPU, float16 on a GPU, with "
        "nearly the same vectors; if they differ too much, the gateway does not start. Changes the fingerprint; "
        "docs/gateway.md compares them.",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="What runs the model; cuda is the first NVIDIA GPU, and needs other packages: docs/gpu.md."
    )
    threads: int = Field(
        default_factory=count_cores,
        ge=1,
        description="Concurrent model calls, one thread each; by default the number of cores this process may use. "
        "Lower it to leave cores to other processes.",
    )
    max_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens in one model call; by default 1024, because more is slower on a CPU, whose cache "
        "overflows, and on a GPU what is measured at the start.",
    )
    max_queue_texts: int = Field(
        20_000,
        ge=1,
        description="Texts that may wait for the encoder; beyond that, requests are answered 429. Raise it to absorb "
        "bursts, lower it to refuse sooner.",
    )
    max_request_texts: int = Field(
        10_000,
        ge=1,
        description="Maximum texts in one request; beyond that, 413. At most max_queue_texts, or such a request could "
        "never be accepted.",
    )
    max_text_characters: int = Field(
        10_000,
        ge=1,
        description="Maximum characters of a text; a longer one gets the error `text_too_long` instead of a vector, "
        "and the other texts are not affected. The model cuts texts off anyway, so raising it only costs time.",
    )
    refuse_unknown: bool = Field(
        False,
        description="Refuses lists for /v1/embeddings with a text whose characters are all unknown to the model. By "
        "default such a text gets the vector of [UNK] there, and the header X-Danmaku-Unknown names it.",
    )
    max_body_bytes: int = Field(
        16 * 2**20,
        ge=1,
        description="Maximum size of a request's body after unpacking gzip, or of a line in a stream; beyond that, "
        "413.",
    )
    max_held_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description="Memory that all requests in progress may hold together: bodies, what is made of them, and answers "
        "not yet read; beyond that, 503. Raise it with the memory of the machine, to at least four times "
        "max_body_bytes.",
    )
    gzip_level: int = Field(
        0,
        ge=0,
        le=9,
        description="gzip level for responses to clients that accept it, which nearly all do; 0 disables compression. "
        "Level 1 shrinks 16 vectors of 256 dimensions from 45 KB to 22 in JSON (0.35 ms), from 22 KB to 17 in base64 "
        "(0.2 ms), which takes longer than answering from the cache. Enable it for clients on slow networks.",
    )
    collections: str = Field(
        "sqlite://danmaku-collections",
        description="Where collections are stored: sqlite:///DIRECTORY for one gateway (sqlite://DIRECTORY is "
        "relative to the working directory); milvus://HOST:19530/DATABASE, a Milvus that several gateways share "
        "(milvus+tls:// with TLS, USER:PASSWORD@ before the host); none disables them. If the default directory is not "
        "usable, collections are disabled.",
    )
    max_collections: int = Field(
        1000,
        ge=1,
        description="Maximum collections; beyond that, creating one is answered 507. Each takes time at the start and "
        "in /collections.",
    )
    max_collection_items: int = Field(
        5_000_000,
        ge=1,
        description="Maximum danmaku in one collection; beyond that, adding is answered 507. A danmaku takes about 1.1 "
        "KB of memory with 256 dimensions in the embedded store, so lower it to what the machine has.",
    )
    cache: str = Field(
        "memory://",
        description="Where vectors are cached: memory:// in this process; redis://HOST:6379/0 in a Redis that several "
        "gateways share, with this process's memory in front of it.",
    )
    cache_ttl_s: int = Field(
        7 * 24 * 3600,
        ge=1,
        description="How long Redis keeps a vector. Lower it if Redis fills with texts that are not requested again.",
    )
    cache_format: Literal["float32", "float16"] = Field(
        "float32", description="Number format in Redis. float16 takes half the space and keeps three correct digits."
    )
    cache_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Memory for cached vectors; 0 disables the cache. 256 MiB hold about 200,000 texts with 256 "
        "dimensions, or 80,000 with 768.",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        description="How long a request may take; beyond that, 504. A request's X-Timeout-Ms can shorten it.",
    )
    receive_timeout_s: float = Field(
        20.0,
        gt=0,
        description="How long the gateway waits for a request's head or body; beyond that, 408. Raise it for clients "
        "on very slow networks.",
    )
    access_log: bool = Field(
        True,
        description="Writes a JSON line to stdout for every request. Disable it to save a few microseconds per "
        "request.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of all other logs, on stderr: text for people, json for log collectors."
    )
    tracing: bool = Field(
        False,
        description="Sends a span for each request with OpenTelemetry to OTEL_EXPORTER_OTLP_ENDPOINT. Needs pip "
        "install 'danmaku-embedding[otel]'. Enable it to see requests among those of other services.",
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="How long to keep serving after SIGTERM, while /readyz answers 503. Set it to some seconds behind "
        "a load balancer, which has to notice.",
    )
    shutdown_timeout_s: int = Field(
        20, ge=0, description="How long requests in progress may take to finish after SIGTERM and drain_s."
    )

    @property
    def has_keys(self) -> bool:
        return bool(self.api_key_hashes or self.api_keys_file)

    @model_validator(mode="after")
    def _one_request_fits(self) -> Settings:
        if self.max_held_bytes < 4 * self.max_body_bytes:
            raise ValueError(
                f"invalid max_held_bytes {self.max_held_bytes}: expected at least 4 times max_body_bytes "
                f"{self.max_body_bytes}, because the values of a body take about three times its size"
            )
        if self.max_request_texts > self.max_queue_texts:
            raise ValueError(
                f"invalid max_request_texts {self.max_request_texts}: expected at most max_queue_texts "
                f"{self.max_queue_texts}, because a larger request could never be accepted"
            )
        return self
