"""Structured logs: one line an event, as JSON for machines or in colour for people."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final, Literal

import structlog

from proxy.observe.outlet import Outlet

Format = Literal["auto", "json", "console"]


def configure(form: Format, level: str) -> None:
    """Send structlog's events to standard error from now on. `auto` is `console` on a terminal, else `json`."""
    outlet = Outlet(sys.stderr.fileno())
    rendering: list[structlog.typing.Processor]
    pretty = form == "console" or (form == "auto" and sys.stderr.isatty())
    # Tracebacks without the values of variables: among those are passwords and presigned URLs.
    if pretty:
        rendering = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        rendering = [structlog.processors.ExceptionRenderer(tracebacks), _as_json]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: outlet,
        cache_logger_on_first_use=True,  # for the loggers that are kept: whoever gets one anew has nothing cached
    )


# structlog's own renderer makes an encoder for each line.
_ENCODER: Final = json.JSONEncoder(default=repr)


def _as_json(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    return _ENCODER.encode(event)
