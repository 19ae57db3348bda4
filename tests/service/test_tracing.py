"""Spans for those who ask for them, none for others."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ClientOf
from fakes import RecordingEncoder
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from processes import ROOT

from service.settings import Settings

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    kept = InMemorySpanExporter()
    monkeypatch.setattr("service.tracing.open_exporter", lambda: kept)
    monkeypatch.setenv("DANMAKU_TRACING", "true")
    return kept


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The last of each name."""
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_request_has_a_span_and_one_of_each_stage(client_of: ClientOf, exporter: InMemorySpanExporter) -> None:
    """In the caller's trace; under the id that the log has."""
    async with client_of(Settings()) as http:
        await http.post("/embed", json=["草"])
        head = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "mine"}
        answer = await http.post("/embed", json=["草", "好", "死"], headers=head)
    spans = [span for span in exporter.get_finished_spans() if span.context.trace_id == int(TRACE, 16)]
    request, cache, encode = sorted(spans, key=lambda span: span.start_time)

    assert answer.status_code == 200
    assert [span.name for span in (request, cache, encode)] == ["POST /embed", "cache", "encode"]
    assert request.parent.span_id == int(CALLER, 16)
    assert cache.parent.span_id == encode.parent.span_id == request.context.span_id
    assert request.attributes["danmaku.request_id"] == "mine"
    assert request.attributes["http.response.status_code"] == 200
    assert (cache.attributes["danmaku.texts"], cache.attributes["danmaku.found"]) == (3, 1)
    assert encode.attributes["danmaku.texts"] == 2
    assert request.start_time <= cache.start_time <= cache.end_time <= encode.start_time <= request.end_time


async def test_what_is_known_is_not_encoded(client_of: ClientOf, exporter: InMemorySpanExporter) -> None:
    async with client_of(Settings()) as http:
        await http.post("/embed", json=["草"])
        await http.post("/embed", json=["草"])

    assert [span.name for span in exporter.get_finished_spans()].count("encode") == 1


async def test_a_failure_is_one_in_its_span(
    client_of: ClientOf, exporter: InMemorySpanExporter, recording_encoder: RecordingEncoder
) -> None:
    recording_encoder.failure = RuntimeError("broken")
    async with client_of(Settings()) as http:
        assert (await http.post("/embed", json=["草"])).status_code == 503
        assert (await http.get("/collections/secret-name")).status_code == 404
    spans = by_name(exporter)

    assert spans["POST /embed"].status.status_code is spans["encode"].status.status_code is StatusCode.ERROR
    assert spans["GET /collections/{name}"].status.status_code is StatusCode.UNSET
    assert "secret-name" not in "".join(span.to_json() for span in exporter.get_finished_spans())


async def test_spans_arrive_where_opentelemetry_s_variable_says(
    client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a collector; the last ones when the gateway ends."""
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        try:
            async with client_of(Settings(tracing=True)) as http:
                assert (await http.post("/embed", json=["草"])).status_code == 200
        finally:
            server.shutdown()
            thread.join()

    assert {path for path, _ in received} == {"/v1/traces"}
    assert all(name in b"".join(body for _, body in received) for name in (b"POST /embed", b"cache", b"encode"))


def test_without_it_nothing_of_it_is_loaded() -> None:
    code = "import sys; from service.app import create_app; from service.settings import Settings; "
    code += "create_app(Settings()); sys.exit('opentelemetry.sdk' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_without_the_extra_a_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['opentelemetry.sdk.trace'] = None; from service.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--tracing", "true", "--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert done.returncode == 1
    assert done.stderr.endswith("tracing needs OpenTelemetry: pip install 'danmaku-embedding[otel]'\n")
