"""What explanations ask upstreams: little enough that whoever may ask why cannot spend what pulls need.

An answer serves every explanation of the same image for a while, and all explanations together have a small bucket of
questions. They are asked by HEAD, which no registry counts as a pull, but some limit all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Final

from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, UpstreamTimeout
from proxy.pull.shared import Shared
from proxy.pull.supply import QUOTA_SECONDS, RESERVE
from proxy.upstream.client import Registry
from proxy.upstream.limits import RateLimit

# Seconds for which an answer serves: as long as somebody looks at it, and not so long that a cure does not show.
SERVES: Final = 5.0
# Questions of all explanations that may be asked at once, as for a page of failed pulls; then one each so many seconds.
AT_ONCE: Final = 10
PACE: Final = 1.0
# How long upstream may think about one: somebody is looking at a screen.
ASK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What upstream said at the time `at`: where a tag points, None for other questions; or how it failed."""

    at: float
    digest: Digest | None = None
    error: MillpondError | None = None


def quota_of(registry: Registry, now: float) -> RateLimit | None:
    """What upstream has said of its quota, as far as that may still hold. `now` is wall time."""
    seen = registry.rate_limit_seen
    return registry.rate_limit if seen is not None and now - seen < QUOTA_SECONDS else None


def reserved(registry: Registry, now: float) -> str:
    """Why what is left of upstream's quota is for clients only; empty where it is not."""
    quota = quota_of(registry, now)
    if quota is None or quota.remaining is None or quota.limit is None or quota.remaining >= RESERVE * quota.limit:
        return ""
    return f"upstream says that {quota.remaining} of {quota.limit} pulls are left, for clients only"


class Questions:
    """The questions of all explanations."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is in seconds, and never jumps."""
        self._clock = clock
        self._answers: dict[Hashable, Answer] = {}  # those that still serve: as few as PACE allows
        self._asking: Shared[Answer | None] = Shared()
        self._turn = 0.0  # when the next question would be due at an even pace

    async def ask(self, what: Hashable, question: Callable[[], Awaitable[object]], since: float) -> Answer | None:
        """The answer to `what`, which `question` asks: of now, or of a moment ago unless something newer is known since
        then; None: too much has been asked."""
        now = self._clock()
        self._answers = {key: answer for key, answer in self._answers.items() if now - answer.at < SERVES}
        if (answer := self._answers.get(what)) and answer.at >= since:
            return answer
        found, _ = await self._asking.run(what, partial(self._put, what, question))
        return found

    async def _put(self, what: Hashable, question: Callable[[], Awaitable[object]]) -> Answer | None:
        now = self._clock()
        turn = max(self._turn, now - (AT_ONCE - 1) * PACE)
        if turn > now:
            return None
        self._turn = turn + PACE
        self._answers[what] = answer = await self._answer(question)
        return answer

    async def _answer(self, question: Callable[[], Awaitable[object]]) -> Answer:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                said = await question()
        except TimeoutError:
            return Answer(self._clock(), error=UpstreamTimeout(f"it has not answered within {ASK_SECONDS:g} s"))
        except MillpondError as error:
            return Answer(self._clock(), error=error)
        return Answer(self._clock(), said if isinstance(said, Digest) else None)
