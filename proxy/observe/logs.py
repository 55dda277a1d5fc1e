"""Structured logs: one line an event, as JSON for machines or in colour for people."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
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
            _stamp,
            structlog.processors.StackInfoRenderer(),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: outlet,
        cache_logger_on_first_use=True,  # for the loggers that are kept: whoever gets one anew has nothing cached
    )


def _stamp(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """When it was said, in UTC. structlog's own makes a date and a text of it for each line."""
    second, part = divmod(time.time_ns(), 1_000_000_000)
    event["timestamp"] = f"{_second(second)}.{part // 1000:06}Z"
    return event


@lru_cache(2)
def _second(number: int) -> str:
    return datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# structlog's own renderer makes an encoder for each line.
_ENCODER: Final = json.JSONEncoder(default=repr)


def _as_json(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    return _ENCODER.encode(event)
