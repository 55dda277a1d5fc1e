"""Spans, as a collector that speaks OTLP over HTTP gets them from the running program; without one, nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import StartMillpond
from tests.support import images
from tests.support.ecr import ACCOUNT, REGION, EcrDouble
from tests.support.faults import refuse
from tests.support.images import Manifest
from tests.support.ports import free_port
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SERVER, CLIENT = 2, 3
ERROR = 2
QUICKLY = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@dataclass(frozen=True, slots=True)
class Span:
    name: str
    kind: int
    id: bytes
    parent: bytes
    trace: bytes
    status: int
    attributes: Mapping[str, Any]


class Collector:
    """Takes spans at /v1/traces, and nothing else."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[Mapping[str, str]] = []
        self.resources: list[Mapping[str, Any]] = []
        take = self._take

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200 if take(self.path, dict(self.headers), body) else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def named(self, name: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name == name]

    def one(self, name: str) -> Span:
        (found,) = wait_until(lambda: self.named(name), f"a span {name} has come")
        return found

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> bool:
        if path != "/v1/traces":
            return False
        request = ExportTraceServiceRequest.FromString(body)
        self.headers.append(headers)
        for part in request.resource_spans:
            self.resources.append(_attributes(part.resource.attributes))
            for scope in part.scope_spans:
                self.spans += [
                    Span(
                        one.name,
                        one.kind,
                        one.span_id,
                        one.parent_span_id,
                        one.trace_id,
                        one.status.code,
                        _attributes(one.attributes),
                    )
                    for one in scope.spans
                ]
        return True


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def image(upstream: ScriptedUpstream, images_directory: Path) -> Manifest:
    made = images.simple_image(images_directory, seed=72, size=8 << 20)
    upstream.add(made, "library/x", "1")
    return made


def test_a_miss_is_a_request_with_a_flight_and_calls_to_upstream_below_it(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector
) -> None:
    env = {**QUICKLY, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=k1", "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=a"}
    traces = {"endpoint": collector.url}
    millpond = start_millpond({"docker.io": upstream.upstream(connections_per_blob=1)}, traces=traces, env=env)
    layer = image.blobs[-1]
    assert get(f"{millpond.url}/v2/library/x/manifests/1").status == 200
    assert get(f"{millpond.url}/v2/library/x/blobs/{layer.digest}").digest == layer.digest
    request, flight = collector.one("GET blobs"), collector.one("flight")
    (call,) = wait_until(lambda: collector.named("upstream GET blobs"), "the call has been told")
    assert (request.kind, call.kind) == (SERVER, CLIENT)
    assert request.parent == b""
    assert flight.parent == request.id
    assert call.parent == flight.id
    assert {request.trace} == {flight.trace, call.trace}
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["millpond.source"] == "upstream"
    assert request.attributes["millpond.bytes"] == layer.size
    assert request.attributes["millpond.digest"] == layer.digest
    assert flight.attributes["millpond.bytes"] == layer.size
    assert flight.attributes["millpond.verified"] is True
    assert call.attributes == {
        "millpond.upstream": "docker.io",
        "millpond.host": upstream.host,
        "millpond.noun": "blobs",
        "millpond.status": 200,
    }
    manifest = collector.one("GET manifests")
    assert manifest.trace != request.trace
    assert collector.one("upstream GET manifests").parent == manifest.id
    assert collector.resources[0]["service.name"] == "millpond"
    assert collector.resources[0]["service.instance.id"] == "a"
    assert {name.lower(): value for name, value in collector.headers[0].items()}["x-key"] == "k1"


def test_there_is_no_span_for_each_chunk_and_a_hit_is_one_span(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()}, traces={"endpoint": collector.url}, env=QUICKLY)
    pull(f"{millpond.url}/v2/library/x", image, "1")
    wait_until(lambda: len(collector.named("flight")) == len(image.blobs), "all flights have been told")
    calls = len(upstream.seen("/v2/", method=""))
    wait_until(lambda: len([s for s in collector.spans if s.kind == CLIENT]) == calls, "one span a call, no more")
    before = len(collector.spans)
    assert get(f"{millpond.url}/v2/library/x/blobs/{image.blobs[-1].digest}").status == 200
    assert get(f"{millpond.url}/nothing").status == 404
    wait_until(lambda: collector.named("GET"), "the last request has been told")
    assert [span.name for span in collector.spans[before:]] == ["GET blobs", "GET"]


TRACE, SENDER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_request_goes_on_with_the_trace_of_its_sender_as_sampled_there(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector
) -> None:
    traces = {"endpoint": collector.url, "ratio": 0}
    millpond = start_millpond({"docker.io": upstream.upstream()}, traces=traces, env=QUICKLY)
    tag = f"{millpond.url}/v2/library/x/manifests/1"
    assert get(tag, {"traceparent": f"00-{TRACE}-{SENDER}-00"}).status == 200
    assert get(tag).status == 200
    assert get(tag, {"traceparent": f"00-{TRACE}-{SENDER}-01", "tracestate": "mesh=1"}).status == 200
    assert get(f"{millpond.url}/nothing", {"traceparent": f"00-{TRACE}-{SENDER}-01"}).status == 404
    blob = f"{millpond.url}/v2/library/x/blobs/{image.blobs[-1].digest}"
    assert get(blob, {"traceparent": f"00-{TRACE}-{SENDER}-01"}).status == 200
    found = [collector.one(name) for name in ("GET manifests", "GET", "GET blobs")]
    assert {(span.trace.hex(), span.parent.hex()) for span in found} == {(TRACE, SENDER)}
    assert collector.one("flight").parent == found[-1].id
    assert {span.trace.hex() for span in collector.spans} == {TRACE}, "what its sender does not sample is not sent"
    assert not [request for request in upstream.seen("", "") if "traceparent" in request.headers]


@pytest.mark.parametrize(
    "header", [f"00-{TRACE}-{'0' * 16}-01", f"00-{'x' * 2000}-01", f"ff-{TRACE}-{SENDER}-01", "\xff"]
)
def test_a_traceparent_that_makes_no_sense_is_as_none(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector, header: str
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()}, traces={"endpoint": collector.url}, env=QUICKLY)
    assert get(f"{millpond.url}/v2/library/x/manifests/1", {"traceparent": header}).status == 200
    assert collector.one("GET manifests").parent == b""
    millpond.terminate()
    assert not millpond.log_lines(event="spans are not sent; check traces.endpoint"), "this is no matter of theirs"


def test_requests_that_one_client_sends_at_once_are_traces_of_their_own(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()}, traces={"endpoint": collector.url}, env=QUICKLY)
    line = f"GET /v2/library/x/manifests/1 HTTP/1.1\r\nHost: {millpond.host}\r\n"
    with socket.create_connection(("127.0.0.1", millpond.port), 30) as client:
        client.sendall(f"{line}\r\n{line}Connection: close\r\n\r\n".encode())
        while client.recv(65536):
            pass
    wait_until(lambda: len(collector.named("GET manifests")) == 2, "both have been told")
    one, other = collector.named("GET manifests")
    assert (one.parent, other.parent) == (b"", b"")
    assert one.trace != other.trace


def test_a_push_to_ecr_has_a_span_for_each_call_and_attempt_and_none_for_parts(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector
) -> None:
    with EcrDouble(part_size=1 << 20) as cloud:
        cloud.fail("PutImage", "ServerException", status=500)
        target = {"name": "dev", "account": ACCOUNT, "region": REGION, "endpoint_url": cloud.url, "read": False}
        millpond = start_millpond(
            {"docker.io": upstream.upstream()},
            traces={"endpoint": collector.url},
            env={**QUICKLY, **cloud.environment},
            ecr={"targets": [target]},
        )
        pull(f"{millpond.url}/v2/library/x", image, "1")
        push = wait_until(lambda: collector.named("push"), "the push has been told")[-1]
        assert push.attributes == {"millpond.target": "dev", "millpond.image": f"docker.io/library/x@{image.digest}"}
        puts = [span for span in collector.named("ecr PutImage") if span.trace == push.trace]
        assert [(span.attributes["millpond.attempt"], span.attributes["millpond.status"]) for span in puts] == [
            (1, "failed"),
            (2, "ok"),
        ]
        assert [span.status for span in puts] == [ERROR, 0]
        assert {span.kind for span in puts} == {CLIENT}
        assert {span.parent for span in puts} == {push.id}
        assert puts[1].attributes["millpond.target"] == "dev"
        assert puts[1].attributes["millpond.repository"] == "docker.io/library/x"
        layers = collector.named("ecr layer")
        assert {span.attributes["millpond.digest"] for span in layers} == {blob.digest for blob in image.blobs}
        calls = [span for span in collector.spans if span.name.startswith("ecr ") and span.kind == CLIENT]
        asked = [call.operation for call in list(cloud.calls) if call.operation != "UploadLayerPart"]
        assert cloud.count("UploadLayerPart") > len(image.blobs)
        assert sorted(span.name for span in calls) == sorted(f"ecr {operation}" for operation in asked)
        assert {span.parent for span in collector.named("ecr InitiateLayerUpload")} == {span.id for span in layers}


def test_what_fails_is_marked_with_its_reason(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector
) -> None:
    upstream.script("/manifests/", then=refuse(503))
    millpond = start_millpond({"docker.io": upstream.upstream()}, traces={"endpoint": collector.url}, env=QUICKLY)
    assert get(f"{millpond.url}/v2/library/x/manifests/1").status >= 500
    request = collector.one("GET manifests")
    assert request.status == ERROR
    assert "503" in request.attributes["millpond.why"]
    assert {span.status for span in collector.named("upstream GET manifests")} == {ERROR}


def test_spans_that_wait_are_sent_at_the_end_and_a_share_can_be_asked_for(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, collector: Collector
) -> None:
    slowly = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
    millpond = start_millpond({"docker.io": upstream.upstream()}, traces={"endpoint": collector.url}, env=slowly)
    assert get(f"{millpond.url}/v2/library/x/manifests/1").status == 200
    millpond.terminate()
    assert collector.named("GET manifests")
    collector.spans.clear()
    millpond.configure({**millpond.config, "traces": {"endpoint": collector.url, "ratio": 0}})
    millpond.restart()
    assert get(f"{millpond.url}/v2/library/x/manifests/1").status == 200
    millpond.terminate()
    assert collector.spans == []


def test_a_collector_that_is_down_costs_no_pull_and_is_said_once(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    traces = {"endpoint": f"http://127.0.0.1:{free_port()}"}
    env = {**QUICKLY, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1"}
    millpond = start_millpond({"docker.io": upstream.upstream()}, traces=traces, env=env)
    pull(f"{millpond.url}/v2/library/x", image, "1")
    wait_until(lambda: millpond.log_lines(event="spans are not sent; check traces.endpoint"), "the log says so")
    pull(f"{millpond.url}/v2/library/x", image, "1")
    assert millpond.terminate() == 0
    assert len(millpond.log_lines(event="spans are not sent; check traces.endpoint")) == 1


def test_without_it_nothing_of_it_is_imported(tmp_path: Path) -> None:
    program = """
import sys
from proxy.parts.traces import make_traces
from proxy.settings import load
import proxy.app
assert make_traces(load(None, {})) is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_where_it_is_not_installed_the_configuration_says_what_to_install(tmp_path: Path) -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None  # as if it were not there
from proxy.settings import SettingsError, load
try:
    load(None, {"MILLPOND_TRACES__ENDPOINT": "http://collector:4318"})
except SettingsError as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True, text=True).stdout
    assert "traces.endpoint" in said
    assert "install millpond[otel]" in said
