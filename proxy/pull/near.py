"""One ECR target as a place to read from, with what is remembered of it: never worth more than a short wait."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from proxy.ecr.errors import Rejected
from proxy.ecr.source import EcrSource
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import (
    Denied,
    MillpondError,
    NameUnknown,
    Unknown,
    UpstreamFailure,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.oci.manifest import Manifest
from proxy.oci.names import Repository
from proxy.oci.source import BlobStream, Source
from proxy.pull.lanes import Lanes

# For an answer, or the first word of a blob. Upstream has the same, so a target that takes longer is passed over.
ECR_DEADLINE: Final = 3.0
# One bad answer is noise; after so many in a row a client is spared the wait for the next one, for a while.
FAILURES_TO_REST: Final = 3
REST_SECONDS: Final = 30.0
# What a target did not have it may have soon, for it is being pushed, perhaps by another instance, which does not tell.
# Until then the rest of the pull need not ask.
MISS_SECONDS: Final = 10.0
# ECR verifies what it takes in, so wrong bytes are the mark of something broken that does not mend by itself soon.
DISTRUST_SECONDS: Final = 600.0
# To one blob. S3 bears hundreds, and eight fill the line of any node.
CONNECTIONS: Final = 8
_REMEMBERED: Final = 10_000

T = TypeVar("T")
Question = Callable[[Source, str], Awaitable[T]]
"""What is asked of a source that calls the repository by the second argument."""


class Near:
    """A readable target: how it has been doing, what it lacks, what it cannot be trusted with."""

    def __init__(
        self,
        source: EcrSource,
        *,
        metrics: Metrics,
        connections: int = CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connections` may bring one blob; `clock` is monotonic, in seconds."""
        self.source: Final = source
        self.name: Final = source.target.name
        self.lanes: Final = Lanes(connections)
        self.received: Final = metrics.ecr_read_bytes.labels(self.name).inc
        self._metrics = metrics
        self._clock = clock
        self._failures = 0
        self._rests_until = 0.0
        self._misses = _Lately(clock)
        self._wrong = _Lately(clock)

    def copy_of(self, repository: Repository) -> Copy | None:
        """The repository at this target; None where the target has no part of it."""
        if repository.upstream not in self.source.target.upstreams:
            return None
        try:
            return Copy(self, self.source.target.repository_name(repository))
        except Rejected:
            return None

    @property
    def rests(self) -> bool:
        return self._clock() < self._rests_until

    def trusts(self, item: str) -> bool:
        return item not in self._wrong

    def misses(self, path: str, item: str) -> bool:
        return (path, item) in self._misses or (path, "") in self._misses

    def missed(self, path: str, items: Iterable[str]) -> None:
        for item in items:
            self._misses.note((path, item), MISS_SECONDS)

    def holds_more(self, repository: Repository) -> None:
        """Something of the repository has just been pushed there: what was missing may be there now."""
        copy = self.copy_of(repository)
        if copy is not None:
            self._misses.drop(lambda key: key[0] == copy.path)

    def distrust(self, item: Digest) -> None:
        """It gave bytes that do not hash to `item`."""
        self._wrong.note(item, DISTRUST_SECONDS)
        self._metrics.unverified.labels("ecr").inc()
        structlog.get_logger().error("ECR gave wrong bytes, it is not asked again", target=self.name, item=item)

    def failed(self, noun: str, why: MillpondError) -> None:
        self._count(noun, "failed")
        self._failures += 1
        if self._failures >= FAILURES_TO_REST:
            self._rests_until = self._clock() + REST_SECONDS
            structlog.get_logger().warning(
                "ECR is not read for a while", target=self.name, seconds=REST_SECONDS, why=str(why)
            )

    @contextmanager
    def judged(self, noun: str, path: str, item: str) -> Iterator[None]:
        """Around one question: its outcome is remembered, and goes on to whoever asked."""
        try:
            yield
        except Unknown as error:
            self._failures = 0
            self._count(noun, "missing")
            self.missed(path, ["" if isinstance(error, NameUnknown) else item])
            raise
        except UpstreamInvalid:
            self._count(noun, "wrong")
            self._wrong.note(item, DISTRUST_SECONDS)
            raise
        except (UpstreamFailure, Denied) as error:
            self.failed(noun, error)
            raise
        except TimeoutError:
            late = UpstreamTimeout(f"ECR target {self.name} did not answer within {ECR_DEADLINE:g} s")
            self.failed(noun, late)
            raise late from None
        except Exception as error:  # noqa: BLE001  an answer that nobody has foreseen: others have the content as well
            structlog.get_logger().exception("ECR could not be read", target=self.name, item=item)
            broken = UpstreamUnreachable(f"ECR target {self.name} could not be asked ({type(error).__name__})")
            self.failed(noun, broken)
            raise broken from None
        self._failures = 0
        self._count(noun, "found")

    def _count(self, noun: str, outcome: str) -> None:
        self._metrics.ecr_reads.labels(self.name, noun, outcome).inc()


@dataclass(frozen=True, slots=True)
class Copy:
    """A repository at a target, which calls it `path`."""

    near: Near
    path: str

    def trusted(self, item: str) -> bool:
        return self.near.trusts(item)

    def lacks(self, item: str) -> bool:
        """Whether it did not have it a moment ago."""
        return self.near.misses(self.path, item)

    async def ask(self, noun: str, item: str, question: Question[T]) -> T:
        """The answer, within the deadline. Raises what a source does."""
        with self.near.judged(noun, self.path, item):
            async with asyncio.timeout(ECR_DEADLINE):
                answer = await question(self.near.source, self.path)
        if isinstance(answer, Manifest):
            self.near.received(len(answer.body))
        return answer

    @asynccontextmanager
    async def blob(self, digest: Digest, start: int, stop: int | None, size: int | None) -> AsyncIterator[BlobStream]:
        """Open the blob, which has `size` bytes as far as that is known. The deadline is for the opening."""
        async with AsyncExitStack() as opened:
            with self.near.judged("blobs", self.path, digest):
                async with asyncio.timeout(ECR_DEADLINE):
                    stream = await opened.enter_async_context(self.near.source.blob(self.path, digest, start, stop))
                if stream.size is not None and size is not None and stream.size != size:
                    raise UpstreamInvalid(f"ECR has {stream.size} bytes where {size} are due")
            yield stream


class _Lately:
    """Keys that were noted, each for its while; the oldest go when there are too many."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def note(self, key: Hashable, seconds: float) -> None:
        self._until[key] = self._clock() + seconds
        self._until.move_to_end(key)
        if len(self._until) > _REMEMBERED:
            self._until.popitem(last=False)

    def drop(self, chosen: Callable[[Any], bool]) -> None:
        for key in [key for key in self._until if chosen(key)]:
            del self._until[key]

    def __contains__(self, key: Hashable) -> bool:
        return self._clock() < self._until.get(key, 0.0)
