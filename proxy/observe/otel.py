"""Spans as OpenTelemetry has them, sent by OTLP over HTTP. Imported where tracing is on only.

A request that comes with a `traceparent` (W3C Trace Context), from a node or an ingress, goes on with the trace that it
names, and is sampled as its sender says. Nothing of it is passed on: an upstream is somebody else's.

Spans are sent behind, in batches, by a thread; while nobody takes them, a bounded number waits and the rest is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import structlog
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy import __version__
from proxy.observe import traces
from proxy.observe.events import Served
from proxy.oci.errors import MillpondError

# A collector is near; whoever takes longer is not waited for by the thread that sends.
_EXPORT_SECONDS: Final = 5
# At the end of the process, for what has not been sent yet.
_LAST_WORDS_SECONDS: Final = 5.0
# Between two lines about a collector that takes nothing.
_COMPLAINT_SECONDS: Final = 60.0
# What is said of a `traceparent` that makes no sense: any client can send one.
_OF_HEADERS: Final = "opentelemetry.trace."
# Paths and reasons come from clients and upstreams.
_MAX_TEXT: Final = 400

_KINDS: Final = {"client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_NANO: Final = 1_000_000_000
_PREFIX: Final = "millpond."
_W3C: Final = TraceContextTextMapPropagator()
_CARRIED: Final = frozenset(field.encode() for field in _W3C.fields)

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]
"""As ASGI has it."""


class OpenTelemetry:
    """A `proxy.observe.traces.Tracer`, and the spans of requests: `began` and `observe` are told of each."""

    def __init__(self, endpoint: str, ratio: float) -> None:
        """`endpoint` is the collector's URL without /v1/traces; `ratio` of all traces are sent, 0 to 1."""
        _complain()
        resource = Resource.create({"service.name": "millpond", "service.version": __version__})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("millpond", __version__)
        self._requests: dict[int, trace.Span] = {}  # in progress, by the identity of their `Served`

    def span(
        self, name: str, kind: traces.Kind, attributes: dict[str, traces.Value]
    ) -> AbstractContextManager[traces.Span]:
        return self._spanned(name, kind, attributes)

    def continued(self, app: App) -> App:
        """`app`, for requests that may belong to the trace of whoever sent them."""

        async def call(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
            carried: dict[str, list[str]] = {}
            for name, value in scope["headers"]:
                if name in _CARRIED:
                    carried.setdefault(name.decode(), []).append(value.decode("latin-1"))
            # From nothing: a request that was pipelined is begun by the task of the one before.
            context.attach(_W3C.extract(carried, context.Context()))  # the request's own task: it ends with it
            await app(scope, receive, send)

        return call

    def began(self, served: Served) -> None:
        """A request has been understood. What is done for it from now on, by the task that calls, is below its span."""
        span = self._tracer.start_span(f"{served.method} {served.kind}", kind=SpanKind.SERVER)
        self._requests[id(served)] = span
        context.attach(trace.set_span_in_context(span))

    def observe(self, served: Served) -> None:
        """A request has ended. An `Observer`."""
        now = time.time_ns()
        span = self._requests.pop(id(served), None)
        if span is None:  # refused before it was understood
            began = now - int(served.seconds * _NANO)
            span = self._tracer.start_span(served.method, kind=SpanKind.SERVER, start_time=began)
        if span.is_recording():
            span.set_attributes(_attributes(served))
            if served.status >= 500 or served.outcome == "aborted":
                span.set_status(Status(StatusCode.ERROR, served.why[:_MAX_TEXT]))
        span.end(now)

    async def aclose(self) -> None:
        """Send what waits, for a moment."""
        # A daemon, so that a collector that hangs does not hold the process.
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, _LAST_WORDS_SECONDS)

    @contextmanager
    def _spanned(self, name: str, kind: traces.Kind, attributes: dict[str, traces.Value]) -> Iterator[traces.Span]:
        named = {_PREFIX + key: value for key, value in attributes.items()}
        span = self._tracer.start_span(name, kind=_KINDS[kind], attributes=named)
        token = context.attach(trace.set_span_in_context(span))
        spanned = _Span(span)
        try:
            yield spanned
        except MillpondError as error:
            spanned.failed(str(error))
            raise
        except BaseException as error:
            spanned.failed(type(error).__name__)  # its text may hold anything
            raise
        finally:
            context.detach(token)
            span.end()


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def note(self, **attributes: traces.Value) -> None:
        self._span.set_attributes({_PREFIX + key: value for key, value in attributes.items()})

    def failed(self, why: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, why[:_MAX_TEXT]))


def _attributes(served: Served) -> dict[str, traces.Value]:
    """By OpenTelemetry's own names where it has some. What is empty is left out."""
    found: dict[str, traces.Value] = {
        "http.request.method": served.method,
        "http.response.status_code": served.status,
        "url.path": served.path[:_MAX_TEXT],
        "client.address": served.client,
        "user.name": served.user,
        "millpond.request_id": served.id,
        "millpond.upstream": served.upstream,
        "millpond.repository": served.repository,
        "millpond.reference": served.item[:_MAX_TEXT],
        "millpond.digest": served.digest,
        "millpond.source": served.origin,
        "millpond.bytes": served.bytes,
        "millpond.outcome": served.outcome,
        "millpond.reason": served.reason[:_MAX_TEXT],
        "millpond.why": served.why[:_MAX_TEXT],
    }
    return {name: value for name, value in found.items() if value != ""}


class _Complaints(logging.Handler):
    """What OpenTelemetry says of a collector that takes nothing, in our log, now and then."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OF_HEADERS):
            return
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _COMPLAINT_SECONDS
            structlog.get_logger().warning("spans are not sent; check traces.endpoint", why=record.getMessage())


def _complain() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False  # else it would be printed as it is, between our lines
    logger.handlers = [_Complaints()]
