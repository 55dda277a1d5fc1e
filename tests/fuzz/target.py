"""What a target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One parser. `run` feeds it, and raises AssertionError, or what the parser should not, when something is wrong.

    `run` returns whether the input was taken for something; it must do so for every one of `seeds`. `words` are pieces
    that such inputs are made of.
    """

    name: str
    run: Callable[[bytes], bool]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def text(data: bytes) -> str:
    """As header values come: every byte a character."""
    return data.decode("latin-1")
