"""Every target, in CI: each seed with each of its pieces replaced, exhaustively, and what hypothesis thinks of."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

# Hypothesis takes milliseconds for what a parser reads in microseconds; `python -m tests.fuzz` is for more.
EXAMPLES = 50

EACH = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@EACH
def test_every_seed_is_taken_for_what_it_is(target: Target) -> None:
    """Without this a target could pass because nothing ever gets as far as what it looks at."""
    assert [seed for seed in target.seeds if not target.run(seed)] == []


@EACH
def test_no_seed_with_one_piece_replaced_breaks_what_must_hold(target: Target) -> None:
    """S P W K H: each target's own docstring says which."""
    for seed in target.seeds:
        for data in neighbours(seed, target.words):
            try:
                target.run(data)
            except Exception as error:
                error.add_note(f"found with {data!r}")
                raise


def neighbours(seed: bytes, words: tuple[bytes, ...]) -> Iterator[bytes]:
    """The seed with each of its words and signs left out, doubled, and replaced by and followed by each of `words`."""
    pieces = re.findall(rb"[A-Za-z0-9.+-]+|[^A-Za-z0-9.+-]", seed)
    for at, piece in enumerate(pieces):
        before, after = b"".join(pieces[:at]), b"".join(pieces[at + 1 :])
        yield before + after
        for word in (piece, *words):
            yield before + word + after
            yield before + piece + word + after


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Pieces in any order, seeds cut into each other, and noise."""
    pieces = st.sampled_from((*target.words, *target.seeds))
    spliced = st.builds(
        lambda one, other, at, to: one[:at] + other[to:], pieces, pieces, st.integers(0, 99), st.integers(0, 99)
    )
    return st.lists(pieces, max_size=12).map(b"".join) | spliced | st.binary(max_size=100)


@EACH
@given(st.data())
@settings(max_examples=EXAMPLES)
def test_nothing_that_a_stranger_sends_breaks_what_must_hold(target: Target, data: st.DataObject) -> None:
    """S P W K H: each target's own docstring says which."""
    target.run(data.draw(inputs(target)))
