"""Layers into one target: part by part, resumed where ECR says, and giving way to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from proxy.ecr.api import Api
from proxy.ecr.courtesy import Courtesy
from proxy.ecr.errors import PartRefused, Passing, Rejected, UploadLost
from proxy.ecr.image import MAX_LAYER, MAX_PART, too_large
from proxy.ecr.job import Job
from proxy.ecr.supply import Content, Supply
from proxy.observe import traces
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import UpstreamTimeout
from proxy.oci.manifest import Descriptor

# Layers of one job at once: the calls of one overlap with the arrival of another.
LAYERS_IN_FLIGHT: Final = 3
# Parts in memory, over all targets and of one: 40 MiB and their encoding, and a target that hangs leaves half of them.
PARTS_IN_MEMORY: Final = 4
_PARTS_OF_A_TARGET: Final = 2
# Times that ECR may refuse parts of one upload without having got further, before it is given up for a new one.
_REFUSALS: Final = 5
# Uploads of one layer, one after the other, before the job gives up for now.
_UPLOADS: Final = 3
# A flight fails by itself when upstream stalls; this is for one that crawls, at 10 MiB in ten minutes.
_ARRIVAL_SECONDS: Final = 600.0

_T = TypeVar("_T")


class Uploader:
    """`parts` is shared by all targets: it bounds the memory."""

    def __init__(
        self, api: Api, supply: Supply, courtesy: Courtesy, parts: asyncio.Semaphore, metrics: Metrics
    ) -> None:
        self._api = api
        self._supply = supply
        self._courtesy = courtesy
        self._parts = parts
        self._own_parts = asyncio.Semaphore(_PARTS_OF_A_TARGET)
        self._pushed_bytes = metrics.ecr_pushed_bytes.labels(api.target.name)

    async def push(self, job: Job, name: str, layers: Sequence[Descriptor], *, spare: bool) -> None:
        """Have all of these layers in the repository `name`.

        Raises:
            EcrError, and what `Supply` raises: one is not there; others may be.
        """
        absent = await self._api.missing_layers(name, [layer.digest for layer in layers])
        wanted = [layer for layer in layers if layer.digest in absent]
        job.bytes_total += sum(layer.size for layer in wanted)
        at_once = asyncio.Semaphore(LAYERS_IN_FLIGHT)

        async def one(digest: Digest) -> None:
            async with at_once:
                await self._layer(job, name, digest, spare=spare)

        await _all(one(layer.digest) for layer in wanted)

    async def _layer(self, job: Job, name: str, digest: Digest, *, spare: bool) -> None:
        if spare:  # a new flight takes a share of upstream's line, too
            await self._courtesy.quiet()
        async with self._supply.blob(job.repository, digest, spare=spare) as content:
            if content.size > MAX_LAYER:
                raise Rejected(too_large(digest, content.size))
            if content.size == 0:
                raise Rejected(f"it names the empty blob {digest}; ECR has no call that could upload it")
            for attempt in range(1, _UPLOADS + 1):
                try:
                    with traces.span("ecr layer", target=self._api.target.name, digest=digest, bytes=content.size):
                        await self._upload(job, name, digest, content, spare=spare)
                    return
                except UploadLost as error:
                    if attempt == _UPLOADS:
                        raise Passing(f"ECR lost {_UPLOADS} uploads of the layer {digest}: {error}") from error

    async def _upload(self, job: Job, name: str, digest: Digest, content: Content, *, spare: bool) -> None:
        upload, part_size = await self._api.begin_upload(name)
        step = min(part_size, MAX_PART)  # whatever ECR may name, more than that it does not take
        first = furthest = refusals = 0
        try:
            while first < content.size:
                stop = min(first + step, content.size)
                try:
                    await self._part(name, upload, content, first, stop, spare=spare)
                    after = stop
                except PartRefused as refused:
                    after = refused.last_byte + 1
                    refusals += after <= furthest
                    if refusals > _REFUSALS or not 0 <= after <= content.size:
                        raise UploadLost(str(refused)) from refused
                job.bytes_done += after - first
                first, furthest = after, max(furthest, after)
            await self._api.complete_upload(name, upload, digest)
        except UploadLost:
            job.bytes_done -= first
            raise

    async def _part(self, name: str, upload: str, content: Content, first: int, stop: int, *, spare: bool) -> None:
        count = stop - first
        await _in_time(content.arrived(stop), count)  # before its turn: a slow flight must not hold the memory
        await self._courtesy.turn(count, spare=spare)
        async with self._own_parts, self._parts:
            part = await _in_time(content.read(first, stop), count)
            await self._api.upload_part(name, upload, first, part)
        self._pushed_bytes.inc(count)


async def _in_time(arrival: Awaitable[_T], count: int) -> _T:
    try:
        async with asyncio.timeout(_ARRIVAL_SECONDS):
            return await arrival
    except TimeoutError:
        raise UpstreamTimeout(f"{count} bytes have not arrived within {_ARRIVAL_SECONDS:g} s") from None


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all at once. The first failure ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
