"""WWW-Authenticate (RFC 7235): the challenges of any number of header lines. Pure, linear, never raises."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Real challenges are a few hundred bytes; what is longer is not looked at.
MAX_LINE: Final = 8 * 1024
MAX_LINES: Final = 16

# Possessive repeats (++, *+) never give back: each character is looked at once.
_GAP: Final = re.compile(r"[ \t,]*+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_EQUALS: Final = re.compile(r"[ \t]*+=[ \t]*+")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_BARE: Final = re.compile(r"[^ \t,\"]*+")  # laxer than a token: unquoted URLs are seen in the wild
_TOKEN68: Final = re.compile(r"[ \t]++[A-Za-z0-9._~+/-]++=*+[ \t]*+(?=,|\Z)")
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and the keys of `params` are lower case; of a repeated key the first value counts."""

    scheme: str
    params: tuple[tuple[str, str], ...] = ()

    def get(self, key: str) -> str | None:
        return next((value for name, value in self.params if name == key), None)


def parse_challenges(lines: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in `lines`, in order. A line that turns to nonsense counts up to there."""
    found: list[Challenge] = []
    for number, line in enumerate(lines):
        if number < MAX_LINES and len(line) <= MAX_LINE:
            found += _parse_line(line)
    return tuple(found)


def _parse_line(line: str) -> list[Challenge]:
    schemes: list[tuple[str, list[tuple[str, str]]]] = []
    position = _end(_GAP, line, 0)
    while token := _TOKEN.match(line, position):
        position = token.end()
        equals = _EQUALS.match(line, position)
        if equals is None:
            schemes.append((token.group().lower(), []))
            position = _end(_TOKEN68, line, position)
        else:
            value = _QUOTED.match(line, equals.end()) or _BARE.match(line, equals.end())
            if not schemes or value is None or line[value.end() : value.end() + 1] == '"':
                break
            text = _ESCAPE.sub(r"\1", value.group(1)) if value.re is _QUOTED else value.group()
            schemes[-1][1].append((token.group().lower(), text))
            position = value.end()
        position = _end(_GAP, line, position)
    return [Challenge(scheme, tuple(params)) for scheme, params in schemes]


def _end(pattern: re.Pattern[str], line: str, position: int) -> int:
    match = pattern.match(line, position)
    return match.end() if match else position
