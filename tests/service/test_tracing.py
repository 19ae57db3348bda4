"""Tracing: spans for gateways that enable it, none for others."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ClientOf
from fakes import RecordingEncoder
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from processes import ROOT

from service.settings import Settings

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Span]]:
    """The spans that a collector has received by the time the gateway has stopped."""
    received: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            received.extend(
                span for resource in body.resource_spans for scope in resource.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield received
        server.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, object]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in span.attributes}


async def test_a_request_has_a_span_and_so_has_each_stage(client_of: ClientOf, spans: list[Span]) -> None:
    """They belong to the caller's trace and have the request's id, which the log has, too."""
    async with client_of(Settings(tracing=True)) as http:
        await http.post("/embed", json=["草"])
        head = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "mine"}
        answer = await http.post("/embed", json=["草", "好", "死"], headers=head)
    mine = [span for span in spans if span.trace_id.hex() == TRACE]
    request, cache, encode = sorted(mine, key=lambda span: span.start_time_unix_nano)
    seen = attributes(request)

    assert answer.status_code == 200
    assert [span.name for span in (request, cache, encode)] == ["POST /embed", "cache", "encode"]
    assert request.parent_span_id.hex() == CALLER
    assert cache.parent_span_id == encode.parent_span_id == request.span_id
    assert (seen["danmaku.request_id"], seen["http.response.status_code"]) == ("mine", 200)
    assert attributes(cache) == {"danmaku.texts": 3, "danmaku.found": 1}
    assert attributes(encode) == {"danmaku.texts": 2}
    assert cache.end_time_unix_nano <= encode.start_time_unix_nano <= request.end_time_unix_nano


async def test_cached_texts_have_no_encode_span(client_of: ClientOf, spans: list[Span]) -> None:
    async with client_of(Settings(tracing=True)) as http:
        await http.post("/embed", json=["草"])
        await http.post("/embed", json=["草"])

    assert [span.name for span in spans].count("encode") == 1


async def test_a_failure_is_recorded_in_its_span(
    client_of: ClientOf, spans: list[Span], recording_encoder: RecordingEncoder
) -> None:
    recording_encoder.failure = RuntimeError("broken")
    async with client_of(Settings(tracing=True)) as http:
        assert (await http.post("/embed", json=["草"])).status_code == 503
        assert (await http.get("/collections/secret-name")).status_code == 404
    codes = {span.name: span.status.code for span in spans}

    assert codes["POST /embed"] == codes["encode"] == Status.STATUS_CODE_ERROR
    assert codes["GET /collections/{name}"] == Status.STATUS_CODE_UNSET
    assert "secret-name" not in "".join(map(str, spans))


def test_without_tracing_opentelemetry_is_not_imported() -> None:
    code = "import sys; from service.app import create_app; from service.settings import Settings; "
    code += "create_app(Settings()); sys.exit('opentelemetry.sdk' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_without_the_extra_a_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['opentelemetry.sdk.trace'] = None; from service.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--tracing", "true", "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert done.stderr.endswith("tracing needs OpenTelemetry: pip install 'danmaku-embedding[otel]'\n")
