"""Defines all settings of the gateway: type, default, and when to change them.

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
        description="Additional port that serves only /healthz, /readyz and /metrics, so that probes succeed even when "
        "the main port has no free connections. The main port serves them too.",
    )
    max_connections: int = Field(
        2048,
        ge=1,
        description="Maximum number of open connections. Beyond that, a new connection replaces the oldest idle one. "
        "The gateway raises its file descriptor limit to fit, or lowers this setting to what the system allows.",
    )
    api_key_hashes: KeyHashes = Field(
        (),
        description="Hex SHA-256 hashes of the valid API keys, separated by spaces or commas. If empty, no key is "
        "required. `danmaku key` generates a key and its hash.",
    )
    api_keys_file: str | None = Field(
        None,
        description="TOML file of named API keys, each with an optional rate, daily quota and permissions; see "
        "docs/security.md. These keys are valid in addition to --api-key-hashes.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Allows listening on non-loopback addresses without API keys. Enable it only if a proxy in front "
        "of the gateway authenticates clients.",
    )
    cors_origins: Origins = Field(
        (),
        description="Origins of web pages whose scripts may call the gateway, such as https://example.com, separated "
        "by spaces or commas; * allows any.",
    )
    allowed_hosts: Hosts = Field(
        (),
        description="Host names that clients may use in the Host header, such as embed.example.com, separated by "
        "spaces or commas; * allows any. IP addresses and names without a dot are always allowed. If this is empty and "
        "API keys are set, any host is allowed. This prevents DNS rebinding by web pages.",
    )
    encoder: str = Field(
        "onnx://models/danmaku-bert-mini",
        description="Encoder URL: onnx://DIRECTORY runs a model in this process; "
        "bert://HOST:5555:5556,OTHER:5555:5556 connects to workers; bert+dns://NAME:5555:5556 connects to the workers "
        "at all addresses of a DNS name. Change it to serve your own model.",
    )
    worker_key_file: Path | None = Field(
        None,
        description="Path of the file worker.key that `danmaku key --worker` wrote. Set it to encrypt connections to "
        "workers that were started with -key_file.",
    )
    pooling_layer: Layers = Field(
        None,
        description="Layers to take vectors from, counted from the end: -1 is the last; several are concatenated. The "
        "default depends on the model: -1 in Hugging Face's layout, otherwise -2, as in bert-as-service. Changes the "
        "fingerprint.",
    )
    pooling_strategy: Literal["REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN"] | None = Field(
        None,
        description="How token vectors are combined. The default is the model's own strategy, or REDUCE_MEAN, as in "
        "bert-as-service. Changes the fingerprint.",
    )
    heads: Folders = Field(
        (),
        description="Folders of classifiers for POST /classify, written by `danmaku-train classify` for this encoder. "
        "The running gateway reloads a folder when it is replaced.",
    )
    max_seq_len: int | None = Field(
        None,
        ge=3,
        description="Maximum tokens per text, including [CLS] and [SEP]. The default is the model's own limit, or its "
        "number of positions. Lower it to limit the cost of long texts. Changes the fingerprint.",
    )
    precision: Literal["float32", "bfloat16", "float16", "int8"] = Field(
        "float32",
        description="Numeric precision of the model. bfloat16 and int8 are faster on a CPU, float16 on a GPU, with "
        "nearly the same vectors; if they differ too much, the gateway does not start. Changes the fingerprint; "
        "docs/gateway.md compares the options.",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu",
        description="Device that runs the model. cuda is the first NVIDIA GPU and needs other packages; docs/gpu.md.",
    )
    threads: int = Field(
        default_factory=count_cores,
        ge=1,
        description="Number of concurrent model calls, one thread each. The default is the number of cores that this "
        "process may use. Lower it to leave cores to other processes.",
    )
    max_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens in one model call. The default is 1024 on a CPU, where larger calls overflow the "
        "CPU cache and are slower; on a GPU it is measured at startup.",
    )
    max_queue_texts: int = Field(
        20_000,
        ge=1,
        description="Maximum number of texts that wait for the encoder; beyond that, requests get 429. Raise it to "
        "absorb bursts, or lower it to refuse requests sooner.",
    )
    max_request_texts: int = Field(
        10_000,
        ge=1,
        description="Maximum number of texts in one request; larger requests get 413. It cannot exceed "
        "max_queue_texts, because such a request could never be accepted.",
    )
    max_text_characters: int = Field(
        10_000,
        ge=1,
        description="Maximum characters per text. A longer text gets the error `text_too_long` instead of a vector; "
        "other texts are not affected. The model truncates long texts anyway, so raising it only costs time.",
    )
    refuse_unknown: bool = Field(
        False,
        description="Refuses a /v1/embeddings request that contains a text with only unknown characters. By default, "
        "such a text gets the vector of [UNK], and the header X-Danmaku-Unknown lists it.",
    )
    max_body_bytes: int = Field(
        16 * 2**20,
        ge=1,
        description="Maximum size of a request body after gzip decompression, or of a line in a stream; a larger one "
        "gets 413.",
    )
    max_held_bytes: int = Field(
        256 * 2**20,
        ge=1,
        description="Maximum memory for all requests in progress: bodies, parsed values, and responses that clients "
        "have not read yet. Beyond that, requests get 503. Raise it on machines with more memory; the minimum is four "
        "times max_body_bytes.",
    )
    gzip_level: int = Field(
        0,
        ge=0,
        le=9,
        description="gzip level for responses to clients that accept gzip, as nearly all do; 0 disables compression. "
        "Level 1 shrinks 16 vectors of 256 dimensions from 45 KB to 22 KB in JSON (0.35 ms) and from 22 KB to 17 KB in "
        "base64 (0.2 ms); this takes longer than a response from the cache. Enable it for clients on slow networks.",
    )
    collections: str = Field(
        "sqlite://danmaku-collections",
        description="Where collections are stored: sqlite:///DIRECTORY for one gateway (sqlite://DIRECTORY is "
        "relative to the working directory); milvus://HOST:19530/DATABASE for a Milvus that several gateways share "
        "(milvus+tls:// for TLS; put USER:PASSWORD@ before the host); none disables collections. If the default "
        "directory is not usable, collections are disabled.",
    )
    max_collections: int = Field(
        1000,
        ge=1,
        description="Maximum number of collections; creating more returns 507. Each collection slows down startup and "
        "/collections.",
    )
    max_collection_items: int = Field(
        5_000_000,
        ge=1,
        description="Maximum number of danmaku in one collection; adding more returns 507. In the embedded store, a "
        "danmaku with 256 dimensions takes about 1.1 KB of memory, so lower the limit to what fits into memory.",
    )
    cache: str = Field(
        "memory://",
        description="Where vectors are cached: memory:// uses the memory of this process; redis://HOST:6379/0 adds a "
        "Redis that several gateways share.",
    )
    cache_ttl_s: int = Field(
        7 * 24 * 3600,
        ge=1,
        description="How long Redis keeps a vector. Lower it if Redis fills up with texts that are rarely requested "
        "again.",
    )
    cache_format: Literal["float32", "float16"] = Field(
        "float32",
        description="Number format in Redis. float16 takes half the space and keeps three significant digits.",
    )
    cache_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="Memory for cached vectors; 0 disables the cache. 256 MiB holds about 200,000 texts with 256 "
        "dimensions, or 80,000 with 768.",
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        description="How long a request may take before it gets 504. A request can shorten it with X-Timeout-Ms.",
    )
    receive_timeout_s: float = Field(
        20.0,
        gt=0,
        description="How long the gateway waits for a request's headers or body before it returns 408. Raise it for "
        "clients on very slow networks.",
    )
    access_log: bool = Field(
        True,
        description="Writes a JSON line to stdout for every request. Disable it to save a few microseconds per "
        "request.",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of all other logs, which go to stderr: text for people, json for log collectors."
    )
    tracing: bool = Field(
        False,
        description="Sends an OpenTelemetry span for each request to OTEL_EXPORTER_OTLP_ENDPOINT. Needs pip install "
        "'danmaku-embedding[otel]'. Enable it to trace requests across services.",
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="How long to keep serving after SIGTERM while /readyz returns 503. Set it to a few seconds behind "
        "a load balancer, so that it stops sending requests in time.",
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
                f"{self.max_body_bytes}, because a parsed body takes about three times its size"
            )
        if self.max_request_texts > self.max_queue_texts:
            raise ValueError(
                f"invalid max_request_texts {self.max_request_texts}: expected at most max_queue_texts "
                f"{self.max_queue_texts}, because a larger request could never be accepted"
            )
        return self
