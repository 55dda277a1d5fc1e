"""What an upstream can do wrong, by name, so that a printed case can be read and repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tests.support.faults import BEFORE_HEADERS, Answer, Fault, Gate, Request, change, cut, html, refuse, stall
from tests.support.wire import range_of

Maker = Callable[[float], Fault]
"""From a share of the body, 0 to 1, where it happens."""


def _at(share: float, fault: Callable[[int], Fault]) -> Fault:
    """A fault at a byte of whatever body is asked for, a range of it or all."""

    def placed(request: Request, answer: Answer) -> Answer:
        asked = range_of(request.headers.get("range", ""), len(answer.body)) if answer.ranged else None
        start, stop = asked or (0, len(answer.body))
        return fault(int(max(0, stop - start) * share))(request, answer)

    return placed


def _wrong_byte(share: float) -> Fault:
    """One bit of the content is another, wherever in it a range begins."""

    def fault(_: Request, answer: Answer) -> Answer:
        if not answer.body:
            return answer
        body = bytearray(answer.body)
        body[min(int(len(body) * share), len(body) - 1)] ^= 1
        return replace(answer, body=bytes(body))

    return fault


def _silence(_: float) -> Fault:
    return change(gates={BEFORE_HEADERS: Gate()})


def _longer(_: float) -> Fault:
    return lambda _, answer: replace(answer, body=answer.body + b"?")


def _shorter(_: float) -> Fault:
    return lambda _, answer: replace(answer, body=answer.body[:-1])


def _early_end(share: float) -> Fault:
    return _at(share, lambda at: change(cut_at=at, ending="close", framing="close"))


def _page(_: float) -> Fault:
    return html()


# They tell no untruth: what they send is right as far as it goes, and a client never has a wrong byte of it.
HONEST: Final[dict[str, Maker]] = {
    "reset": lambda share: _at(share, cut),
    "end": lambda share: _at(share, lambda at: cut(at, "close")),
    "early end without a length": _early_end,
    "500": lambda _: refuse(500),
    "503": lambda _: refuse(503),
    "429": lambda _: refuse(429, retry_after="1"),
    "no ranges": lambda _: change(ranged=False),
    "chunked": lambda _: change(framing="chunked"),
}
LIES: Final[dict[str, Maker]] = {
    "wrong byte": _wrong_byte,
    "one byte more": _longer,
    "one byte less": _shorter,
    "a page": _page,
}
# Each costs a whole read deadline, so they pass after a request or two.
SLOW: Final[dict[str, Maker]] = {
    "stall": lambda share: _at(share, stall),
    "silence": _silence,
}
TROUBLES: Final = {**HONEST, **LIES, **SLOW}
