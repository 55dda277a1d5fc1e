"""The grammars of the distribution specification, read a character at a time: an oracle for the patterns of `proxy`."""

from __future__ import annotations

from itertools import groupby
from string import ascii_letters, ascii_lowercase, digits
from typing import Final

from hypothesis import strategies as st

_ALNUM: Final = set(ascii_lowercase + digits)
_HEX: Final = set("0123456789abcdef")


def is_name(text: str) -> bool:
    """Whether `text` is a repository name: parts joined by /, each of runs that single separators join."""
    return len(text) <= 255 and all(_is_part(part) for part in text.split("/"))


def _is_part(part: str) -> bool:
    runs = [(alnum, "".join(run)) for alnum, run in groupby(part, lambda character: character in _ALNUM)]
    if not runs or not runs[0][0] or not runs[-1][0]:
        return False
    return all(alnum or run in {".", "_", "__"} or set(run) == {"-"} for alnum, run in runs)


def is_tag(text: str) -> bool:
    words = set(ascii_letters + digits + "_")
    return 1 <= len(text) <= 128 and text[0] in words and set(text) <= words | {".", "-"}


def is_digest(text: str) -> bool:
    for prefix, length in (("sha256:", 64), ("sha512:", 128)):
        if text.startswith(prefix):
            rest = text[len(prefix) :]
            return len(rest) == length and set(rest) <= _HEX
    return False


# Names that are right, made from the oracle's side, and texts that are nearly so.
_parts: Final = st.lists(st.text("abz019", min_size=1, max_size=4), min_size=1, max_size=3).flatmap(
    lambda runs: st.lists(
        st.sampled_from([".", "_", "__", "-", "---"]), min_size=len(runs) - 1, max_size=len(runs) - 1
    ).map(lambda seps: "".join(a + b for a, b in zip(runs, [*seps, ""], strict=True)))
)
names: Final = st.lists(_parts, min_size=1, max_size=4).map("/".join)
tags: Final = st.text("aZ0._-", min_size=1, max_size=130).filter(is_tag)
digests: Final = st.one_of(
    st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__),
    st.text("0123456789abcdef", min_size=128, max_size=128).map("sha512:".__add__),
)
near_names: Final = st.one_of(
    names, st.text("az0._-/A:% \n\u212aé", max_size=12), st.text(max_size=12), (st.integers(250, 260).map("a".__mul__))
)
near_digests: Final = st.one_of(
    digests,
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["sha256", "sha512", "md5", "SHA256", ""]),
        st.sampled_from([":", "", "::"]),
        st.sampled_from([63, 64, 65, 128]).flatmap(lambda n: st.text("0123456789abcdefAg\n٣", min_size=n, max_size=n)),
    ),
    st.text(max_size=80),
)
