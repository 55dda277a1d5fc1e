"""What a kill has made the queue forget: found again at the next start, among what the cache knows to have been pulled.

A job is written down some milliseconds after the response that it is for, so that no client waits for that. A kill in
these leaves an image that was pulled, and of which no target is told. An orderly end writes everything, and says so; a
start that does not find this word looks at what was pulled last, and makes jobs of what targets have no note of. What
each name stands for is asked as for any client, so that the operator's rules are kept.

What was never written anywhere cannot be found again: the cache, too, notes a new image's name behind the response. An
image whose manifest was first served in the last milliseconds comes with its next pull.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterable
from typing import Final

import structlog

from proxy.ecr.intake import Intake
from proxy.ecr.supply import Pulled, Records, Supply
from proxy.oci.errors import MillpondError

# Seconds before the last sign of life. A job is late by milliseconds; by more while the disk refuses what is written.
# All that the cache has would be too much: it holds images that were never to be pushed, from before a target came.
LOOK_BACK: Final = 3600.0

# The word of an orderly end: no job's key, for it names no target.
_ENDED: Final = "!ended"
# Images that are looked at before the event loop has its turn: about a millisecond of it.
_STEP: Final = 500


class Recall:
    """`run` once after the start, `ended` at the end."""

    def __init__(
        self,
        loaded: Container[str],
        records: Records,
        pulled: Callable[[], Iterable[Pulled]],
        clock: Callable[[], float],
    ) -> None:
        """`loaded` are the keys of what `records` holds from before; `pulled` gives what is cached; `clock` is wall
        time in seconds."""
        self._open = _ENDED not in loaded  # something may have got lost, and has not been found again
        self._records = records
        self._pulled = pulled
        self._clock = clock
        if not self._open:
            records.note(_ENDED, None)

    async def run(self, intake: Intake, supply: Supply) -> None:
        """Have jobs made of what has got lost."""
        if not self._open:
            return
        now, newest = self._clock(), 0.0
        async for image in self._walk():
            newest = max(newest, min(image.moment, now))
        found = 0
        async for image in self._walk():
            if image.moment < newest - LOOK_BACK or not intake.lacks(image):
                continue
            try:
                manifest = await supply.manifest(image.repository, image.tag or image.digest, spare=False)
            except MillpondError as error:
                structlog.get_logger().warning(
                    "not pushed to ECR until it is pulled again", image=str(image), why=str(error)
                )
            else:
                intake.restore(image, manifest.digest)
                found += 1
        self._open = False
        if found:
            structlog.get_logger().info("the program was killed before all pulls were noted for ECR", images=found)

    def ended(self) -> None:
        """Nothing is noted after this. Where `run` was broken off, the next start has to look again."""
        if not self._open:
            self._records.note(_ENDED, [])

    async def _walk(self) -> AsyncIterator[Pulled]:
        for number, image in enumerate(self._pulled()):
            if number % _STEP == 0:
                await asyncio.sleep(0)
            yield image
