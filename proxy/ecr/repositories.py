"""Repositories that come into being when they are first pushed to.

CreateRepository sets encryption, scanning, mutability and tags, all or nothing. Policies are calls of their own, and
between them the program may end. The rule:

- A repository that was not created here is never altered, whether it has policies or not.
- One that was is finished by the next push to it, in this process or a later one: each policy that it lacks is set, by
  the template as it is then. One that it has stays, for somebody may have set it by hand meanwhile.
- What cannot be set is tried again with a push after RETRY_SECONDS, or on demand. No push fails for it.
- What has been set once is never looked at again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from proxy.ecr.api import Api
from proxy.ecr.errors import KeyRefused, Refused, Rejected, RepositoryMissing
from proxy.ecr.unfinished import Unfinished

# Seconds for which a repository that may not be created is not tried again: a policy is mended by hand.
OFF_SECONDS: Final = 600.0
# The same for a policy that cannot be set, which nobody waits for.
RETRY_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Off:
    reason: str
    until: float


class Repositories:
    """Those of one target."""

    def __init__(self, api: Api, unfinished: Unfinished, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._target = api.target.name
        self._unfinished = unfinished
        self._clock = clock
        self._off: dict[str, _Off] = {}
        self._unset: dict[str, float] = {}  # unfinished ones, and when they are tried again
        self._work: dict[str, asyncio.Task[None]] = {}

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
        await self._once(name, self._create)

    async def finish(self, name: str) -> None:
        """Set what a creation that was broken off has left unset. At once where there is nothing of the kind."""
        if self._unfinished.has(self._target, name) and self._clock() >= self._unset.get(name, 0.0):
            await self._once(name, partial(self._set_policies, new=False))

    def forget(self) -> None:
        """Try again at once what could not be done: somebody says that it can by now."""
        self._off.clear()
        self._unset.clear()

    async def _once(self, name: str, work: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        task = self._work.get(name)
        if task is None:
            # A task of its own: a caller that leaves does not leave a repository without its policies behind.
            task = self._work[name] = asyncio.create_task(work(name), name="repository creation")
            task.add_done_callback(lambda done: self._done(name, done))
        await asyncio.shield(task)

    async def _create(self, name: str) -> None:
        begun = self._unfinished.has(self._target, name)  # before, and it may have come to be then
        if self._api.target.repository.has_policies:
            await self._unfinished.begin(self._target, name)
        try:
            new = await self._api.create_repository(name)
        except (Refused, KeyRefused) as error:
            self._unfinished.end(self._target, name)
            now = self._clock()
            self._off = {name: off for name, off in self._off.items() if now < off.until}
            self._off[name] = _Off(str(error), now + OFF_SECONDS)
            raise Refused(str(error)) from error
        except Rejected:
            self._unfinished.end(self._target, name)
            raise
        self._off.pop(name, None)
        if not (new or begun):
            self._unfinished.end(self._target, name)  # somebody else has created it
        elif self._unfinished.has(self._target, name):
            await self._set_policies(name, new=new)

    async def _set_policies(self, name: str, *, new: bool) -> None:
        try:
            done = await self._api.set_policies(name, new=new)
        except RepositoryMissing:
            return  # it was never created, or is gone: the push will find that as well, and then it begins anew
        if done:
            self._unfinished.end(self._target, name)
            self._unset.pop(name, None)
        else:
            self._unset[name] = self._clock() + RETRY_SECONDS

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        del self._work[name]
        if not task.cancelled():
            task.exception()  # retrieved, though every caller may have left
