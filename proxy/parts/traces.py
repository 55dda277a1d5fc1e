"""Tracing, where the settings ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.observe import traces
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.observe.otel import OpenTelemetry


def make_traces(settings: Settings) -> OpenTelemetry | None:
    """None, with nothing imported, where spans go nowhere. The caller closes it."""
    if settings.traces.endpoint is None:
        return None
    from proxy.observe.otel import OpenTelemetry  # noqa: PLC0415  an extra, and 10 MB that only its users pay

    tracer = OpenTelemetry(settings.traces.endpoint, settings.traces.ratio)
    traces.use(tracer)
    return tracer
