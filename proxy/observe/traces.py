"""Spans around what takes time, for whoever traces. Off until `use`: then nothing is made, kept or imported for it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol, Self

Kind = Literal["client", "internal"]
"""A request to somebody else, or work of our own."""

Value = str | int | float | bool


class Span(Protocol):
    """Something that is under way."""

    def note(self, **attributes: Value) -> None:
        """What has turned out about it."""

    def failed(self, why: str) -> None:
        """It did not do what it was for."""


class Tracer(Protocol):
    """Who makes spans: `proxy.observe.otel`."""

    def span(self, name: str, kind: Kind, attributes: dict[str, Value]) -> AbstractContextManager[Span]: ...


class _Nothing:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
    def note(self, **_: Value) -> None: ...
    def failed(self, why: str) -> None: ...


NOTHING: Final = _Nothing()
"""In the place of a span, for what there are too many of."""

_tracer: Tracer | None = None


def use(tracer: Tracer | None) -> None:
    """From now on spans are made by `tracer`; None turns them off."""
    global _tracer  # noqa: PLW0603  as with the log, who is told of spans is a matter of the whole process
    _tracer = tracer


def span(name: str, kind: Kind = "internal", **attributes: Value) -> AbstractContextManager[Span]:
    """A span around a block, below the one that is current. What the block raises makes it a failure."""
    return NOTHING if _tracer is None else _tracer.span(name, kind, attributes)
