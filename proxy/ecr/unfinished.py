"""Repositories whose creation has begun and whose policies are not known to be set: a durable list.

CreateRepository makes a repository whole but for its two policies, which are calls of their own. What ends the program
between these calls must not leave a repository without them for ever, and no repository of somebody else may be taken
for one of ours. So its name is on the disk before ECR hears of it, and goes when the policies are set, or it turns out
that the repository is not ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxy.ecr.supply import Records

# A name begins its record's key with this, which begins no target's name.
KIND: Final = "!creation"
# Names that are kept; the oldest goes first. That many, of a hundred bytes each, are there only where nobody minds that
# every policy is refused: it is in the log each time.
MAX_NAMES: Final = 10_000


class Unfinished:
    """Those of all targets."""

    def __init__(self, loaded: Iterable[str], records: Records) -> None:
        """`loaded` are the keys of what `records` holds from before, those of others among them."""
        self._records = records
        self._keys = dict.fromkeys(key for key in loaded if key.startswith(f"{KIND} "))

    def has(self, target: str, name: str) -> bool:
        return _key(target, name) in self._keys

    async def begin(self, target: str, name: str) -> None:
        """It is on the disk when this returns, if the disk takes anything."""
        key = _key(target, name)
        self._keys[key] = None
        self._records.note(key, [])
        if len(self._keys) > MAX_NAMES:
            self._end(next(iter(self._keys)))
        await self._records.flush()

    def end(self, target: str, name: str) -> None:
        """It is finished, or was never begun. None the worse for not being there."""
        self._end(_key(target, name))

    def _end(self, key: str) -> None:
        if key in self._keys:
            del self._keys[key]
            self._records.note(key, None)


def _key(target: str, name: str) -> str:
    return f"{KIND} {target} {name}"
