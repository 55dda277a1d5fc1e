"""Keeping what was installed where it is: something else on the node may write there too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

# containerd asks its files at each pull: a few pulls past Millpond are harmless, and ten small files cost nothing.
INTERVAL: Final = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say: how it is about `subject`, or with `event`, what has just been done to it."""

    ok: bool
    state: str
    subject: str
    detail: str = ""
    event: bool = False


def watch(
    look: Callable[[], Iterable[Finding]], say: Callable[[Finding], None], stopped: Callable[[float], bool]
) -> None:
    """Call `look` every INTERVAL until `stopped(seconds)`, which waits for so long, returns true.

    An event is always said; what is well once, and what is not when it begins or changes.
    """
    last: dict[str, str] = {}
    while True:
        found: dict[str, str] = {}
        for finding in look():
            found[finding.subject] = "" if finding.ok else finding.detail
            if finding.event or last.get(finding.subject) != found[finding.subject]:
                say(finding)
        last = found
        if stopped(INTERVAL):
            return
