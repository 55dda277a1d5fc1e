"""Repositories that come into being when they are first pushed to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.ecr.api import Api
from proxy.ecr.errors import KeyRefused, Refused

# Seconds for which a repository that may not be created is not tried again: a policy is mended by hand.
OFF_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Off:
    reason: str
    until: float


class Repositories:
    """Those of one target."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._off: dict[str, _Off] = {}
        self._creations: dict[str, asyncio.Task[None]] = {}

    @property
    def trouble(self) -> dict[str, str]:
        """The repositories that may not be created, and why."""
        now = self._clock()
        return {name: off.reason for name, off in self._off.items() if now < off.until}

    async def create(self, name: str) -> None:
        """Create the repository unless it exists; once for any number of callers.

        Raises:
            Passing, Rejected
            Refused: it may not be created; for OFF_SECONDS without asking again.
        """
        off = self._off.get(name)
        if off is not None and self._clock() < off.until:
            raise Refused(off.reason)
        creation = self._creations.get(name)
        if creation is None:
            # A task of its own: a caller that leaves does not leave a repository without its policies behind.
            creation = self._creations[name] = asyncio.create_task(self._create(name), name="repository creation")
            creation.add_done_callback(lambda done: self._created(name, done))
        await asyncio.shield(creation)

    def forget(self) -> None:
        """Try again at once what may not be created: somebody says that it may by now."""
        self._off.clear()

    async def _create(self, name: str) -> None:
        try:
            await self._api.create_repository(name)
        except (Refused, KeyRefused) as error:
            now = self._clock()
            self._off = {name: off for name, off in self._off.items() if now < off.until}
            self._off[name] = _Off(str(error), now + OFF_SECONDS)
            raise Refused(str(error)) from error
        self._off.pop(name, None)

    def _created(self, name: str, creation: asyncio.Task[None]) -> None:
        del self._creations[name]
        if not creation.cancelled():
            creation.exception()  # retrieved, though every caller may have left
