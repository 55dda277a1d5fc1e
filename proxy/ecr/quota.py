"""Turns for calls, so that Millpond stays below what AWS lets an account do in a region."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from proxy.ecr.errors import Throttled

RATES: Final[Mapping[str, float]] = MappingProxyType({
    "BatchCheckLayerAvailability": 800.0,
    "BatchGetImage": 1600.0,
    "CompleteLayerUpload": 80.0,
    "GetAuthorizationToken": 400.0,
    "GetDownloadUrlForLayer": 2400.0,
    "InitiateLayerUpload": 80.0,
    "PutImage": 8.0,
    "UploadLayerPart": 400.0,
})  # fmt: skip
"""Calls a second: four fifths of AWS's quotas, which belong to the whole account and not to Millpond alone."""

# For what AWS documents no quota of: as for the slowest that it does.
OTHERS: Final = 8.0
# Seconds' worth of calls that may come at once: with PutImage's 8 a second, two, so that no second has more than ten.
BURST: Final = 0.125
# Seconds that a call may have to wait for its turn; beyond, whoever wants it had better come back later.
LONGEST_WAIT: Final = 30.0


class Quotas:
    """Token buckets, one for each account, region and operation, however many targets are there. First come, first
    served."""

    def __init__(self, rates: Mapping[str, float] = RATES, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = rates
        self._clock = clock
        self._turns: dict[tuple[str, str, str], float] = {}  # when the next call would be due at an even pace

    async def take(self, account: str, region: str, operation: str) -> None:
        """Wait for a turn. Whoever leaves while waiting has used its turn up.

        Raises:
            Throttled: it would be more than LONGEST_WAIT seconds from now.
        """
        key = account, region, operation
        now = self._clock()
        turn = max(self._turns.get(key, now), now - BURST)
        if turn - now > LONGEST_WAIT:
            raise Throttled(f"too many calls of {operation} are waiting for their turn in {account} {region}")
        self._turns[key] = turn + 1 / self._rates.get(operation, OTHERS)
        if turn > now:
            await asyncio.sleep(turn - now)
