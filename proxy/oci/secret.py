"""A password, token or signed URL, as a type that does not print."""

from __future__ import annotations

import hmac
from typing import Final, Never

_SHOWN: Final = "***"


class Secret:
    """Text that leaves through `reveal()` only: not by `str`, `repr`, a format, a traceback, JSON, or a pickle.

    It is no `str`, so that it cannot become part of a message by a slip. Two are compared in constant time.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text, for the one place that sends or compares it."""
        return self._text

    def __str__(self) -> str:
        return _SHOWN

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Never:
        raise TypeError("a secret is not written down")
