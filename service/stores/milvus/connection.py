"""Connects to a Milvus on first use, and translates its errors into ours.

pymilvus defines Milvus' messages and does rare work, such as making a collection, in a thread. Rows and searches go
directly over gRPC: pymilvus takes 150 µs of processor time for each row that it writes, and its asynchronous client
ignores errors of deletions. A call waits for the connection until it times out, and nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import grpc.aio
import numpy as np
import orjson

from service.errors import ConfigurationError, StorageFull, StoreUnavailable

try:
    import pymilvus
    from pymilvus.exceptions import MilvusException
    from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc
except ImportError:
    raise ConfigurationError("milvus:// needs pymilvus: pip install 'danmaku-embedding[milvus]'") from None

from service.stores.milvus.columns import Columns, pack, unpack

# It logs every error with its traceback; the caller reports it.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

ANSWER_TIMEOUT_S = 10.0
MANAGE_TIMEOUT_S = 60.0  # making a collection takes seconds, or longer on a busy machine
NO_COLLECTION = 100  # codes of Milvus
FULL = {3: "memory", 7: "disk space", 9: "quota"}
STRONG, BOUNDED, SESSION = "Strong", "Bounded", "Session"


class NoCollection(StoreUnavailable):
    """The Milvus collection does not exist."""


class Connection:
    """A client of one database, which it makes if it does not exist.

    Reads have one of three consistency levels. STRONG sees all earlier writes, and waits for a tick. SESSION sees what
    this connection has written to that partition. BOUNDED may lack the last seconds. The first read of a partition, and
    the first after a deletion, whose time Milvus 2.3 does not return, is always STRONG.
    """

    def __init__(self, url: str, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        """Raises ConfigurationError for an invalid URL."""
        parts, self._timeout_s = urlsplit(url), answer_timeout_s
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.consistency = options.pop("consistency", "session").capitalize()  # of searches
        try:
            port = parts.port or 19530
        except ValueError:
            port = 0
        if not (parts.hostname and port) or options or self.consistency not in (SESSION, STRONG):
            raise ConfigurationError(  # the URL is not quoted: it may contain a password
                "invalid URL of the collections: expected milvus://USER:PASSWORD@HOST:19530/DATABASE or milvus+tls://, "
                "with / and @ in the password written as %2F and %40, and only consistency=strong after ?"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._address, self._is_secure = f"{host}:{port}", parts.scheme.endswith("+tls")
        self._database = parts.path.strip("/") or "default"
        self._token = ":".join(unquote(part) for part in (parts.username, parts.password) if part)
        self._user = [("authorization", base64.b64encode(self._token.encode()).decode())] if self._token else []
        self._metadata = (*self._user, ("dbname", self._database))
        self._channel: grpc.aio.Channel | None = None
        self._manager: pymilvus.MilvusClient | None = None
        self._opening, self._managing = asyncio.Lock(), Lock()
        self._written: dict[tuple[str, str], int] = {}  # when a partition was last written, as Milvus counts
        self._has_database = self._is_closed = False

    def check_open(self) -> None:
        """Raises StoreUnavailable after `close`."""
        if self._is_closed:
            raise StoreUnavailable("the collections are closed")

    async def close(self) -> None:
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close(self._timeout_s)  # ends what is in progress
        if self._manager is not None:
            await asyncio.to_thread(self._manager.close)

    async def manage(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of `pymilvus.MilvusClient`. Every method here raises NoCollection, StorageFull,
        StoreUnavailable, or ConfigurationError if Milvus refuses the user.
        """

        def call() -> Any:
            with self._managing:
                self._manager = self._manager or pymilvus.MilvusClient(
                    f"{'https' if self._is_secure else 'http'}://{self._address}",
                    token=self._token,
                    db_name=self._database,
                    timeout=self._timeout_s,
                    dedicated=True,  # closing a store does not close another's connection
                )
            return getattr(self._manager, method)(*arguments, timeout=MANAGE_TIMEOUT_S, **options)

        self.check_open()
        try:
            await self._open()
            return await asyncio.to_thread(call)
        except (MilvusException, grpc.RpcError) as error:
            raise _translate(error) from None

    async def upsert(self, place: str, partition: str, columns: Columns) -> None:
        """Writes either all rows or none; replaces rows with the same key."""
        fields = [pack(name, values) for name, values in columns.items()]
        size = len(next(iter(columns.values())))
        request = milvus_pb2.UpsertRequest(
            collection_name=place, partition_name=partition, fields_data=fields, num_rows=size
        )
        answer = await self._send("Upsert", request)
        self._written[place, partition] = max(answer.timestamp, self._written.get((place, partition), 0))

    async def delete(self, place: str, partition: str, where: str) -> int:
        """Deletes rows; returns how many."""
        request = milvus_pb2.DeleteRequest(collection_name=place, partition_name=partition, expr=where)
        answer = await self._send("Delete", request)
        self._written.pop((place, partition), None)
        return int(answer.delete_cnt)

    async def query(
        self, place: str, partition: str, where: str, fields: Sequence[str], consistency: str = SESSION
    ) -> Columns:
        """Returns all rows that an expression selects, in no order."""
        request = milvus_pb2.QueryRequest(collection_name=place, expr=where, output_fields=fields)
        answer = await self._read("Query", request, partition, consistency)
        return {field.field_name: unpack(field) for field in answer.fields_data}

    async def search(
        self, place: str, partition: str, queries: np.ndarray, where: str, fields: Sequence[str], limit: int, visit: int
    ) -> tuple[list[list[float]], Columns]:
        """Returns the scores for each of the queries, best first, and the rows of all of them in the same order."""
        vectors = common_pb2.PlaceholderValue(
            tag="$0",
            type=common_pb2.PlaceholderType.FloatVector,
            values=[query.tobytes() for query in np.asarray(queries, "<f4")],
        )
        params = {"anns_field": "vector", "topk": str(limit), "metric_type": "IP", "round_decimal": "-1"}
        params["params"] = orjson.dumps({"ef": max(visit, limit)}).decode()
        request = milvus_pb2.SearchRequest(
            collection_name=place,
            dsl=where,
            dsl_type=common_pb2.DslType.BoolExprV1,
            placeholder_group=common_pb2.PlaceholderGroup(placeholders=[vectors]).SerializeToString(),
            search_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in params.items()],
            output_fields=fields,
            nq=len(queries),
        )
        answer = (await self._read("Search", request, partition, self.consistency)).results
        scores, start, columns = (
            list(answer.scores),
            0,
            {field.field_name: unpack(field) for field in answer.fields_data},
        )
        parts = []
        for size in answer.topks:
            parts.append(scores[start : start + size])
            start += size
        return parts, columns

    async def _read(self, method: str, request: Any, partition: str, consistency: str) -> Any:
        place = request.collection_name, partition
        if (written := self._written.get(place)) is None:
            consistency = STRONG
        # For Milvus, 0 means all, and 2 all but the last seconds.
        request.guarantee_timestamp = {STRONG: 0, BOUNDED: 2}.get(consistency, written or 0)
        request.consistency_level = common_pb2.ConsistencyLevel.Value(consistency)
        if partition:
            request.partition_names.append(partition)
        answer = await self._send(method, request)
        if written is None:
            self._written.setdefault(place, 1)
        return answer

    async def _send(self, method: str, request: Any) -> Any:
        self.check_open()
        try:
            send = getattr(await self._open(), method)
            answer = await send(request, timeout=self._timeout_s, metadata=self._metadata, wait_for_ready=True)
        except grpc.RpcError as error:
            raise _translate(error) from None
        if answer.status.code or answer.status.error_code:
            raise _translate(MilvusException(answer.status.code, answer.status.reason))
        return answer

    async def _open(self) -> Any:
        """Returns the object that sends messages. Makes the database before the first."""
        async with self._opening:
            if self._channel is None:
                options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
                if self._is_secure:
                    trust = grpc.ssl_channel_credentials()
                    self._channel = grpc.aio.secure_channel(self._address, trust, options)
                else:
                    self._channel = grpc.aio.insecure_channel(self._address, options)
                self._stub = milvus_pb2_grpc.MilvusServiceStub(self._channel)
            if not self._has_database:
                limits: dict[str, Any] = {
                    "timeout": self._timeout_s,
                    "wait_for_ready": True,
                    "metadata": self._user,
                }
                names = (await self._stub.ListDatabases(milvus_pb2.ListDatabasesRequest(), **limits)).db_names
                if self._database not in names:
                    await self._stub.CreateDatabase(milvus_pb2.CreateDatabaseRequest(db_name=self._database), **limits)
                self._has_database = True
        return self._stub


def _translate(error: Exception) -> Exception:
    """Returns our error. Messages of gRPC and pymilvus are left out: they are long and name addresses."""
    code = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", None)
    if code == NO_COLLECTION:
        return NoCollection("Milvus does not have the data of the collections; restore it")
    if code in FULL:
        return StorageFull(f"Milvus has reached its limit of {FULL[code]}; this change was not made")
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED.value[0], 1400):
        return ConfigurationError("Milvus rejects the user or password in the URL of the collections")
    name = code.name if isinstance(code, grpc.StatusCode) else f"{code}, {getattr(error, 'message', '')[:100]}"
    return StoreUnavailable(f"the Milvus server of the collections is unavailable ({name})")
