"""Blobs: from disk, from a flight that is under way, or from a new one; to the disk, or past it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Literal, Protocol

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.cache.files import BlobFile
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, DiskFailure, Unknown, UpstreamFailure, UpstreamInvalid
from proxy.oci.names import Repository
from proxy.oci.source import Source
from proxy.pull.delivery import Delivery, Tier
from proxy.pull.flight import Flight, Piece, Segment
from proxy.pull.freshness import Refusals
from proxy.pull.lanes import Lanes
from proxy.pull.near import Near
from proxy.pull.policy import Policy
from proxy.pull.progress import Progress
from proxy.pull.reasons import JOINED, OTHER_SIZE, TOO_LARGE, UNREADABLE, Reasons, past
from proxy.pull.relay import Relay
from proxy.pull.shared import Shared
from proxy.pull.tiers import Tiers

Origin = Literal["hit", "joined", "ecr", "upstream", "stale"]
"""Where an answer came from: the values of the X-Millpond header."""


class Blob(Protocol):
    """A blob that can be read, any range of it, any number of times, until it is closed. `arrived` waits, where it is
    arriving, until a reading up to `stop` need not wait, and hurries nobody. `kept` waits until it is on the disk, and
    raises what it failed of: DiskFailure where the disk does not take it."""

    @property
    def origin(self) -> Origin: ...
    @property
    def reason(self) -> str: ...
    @property
    def size(self) -> int: ...
    async def arrived(self, stop: int) -> None: ...
    async def kept(self) -> None: ...
    def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]: ...
    def close(self) -> None: ...


class Blobs:
    """Every blob that a client may have."""

    def __init__(
        self,
        store: BlobStore,
        catalog: Catalog,
        sources: Mapping[str, Source],
        *,
        connections: Mapping[str, int],
        metrics: Metrics,
        near: Sequence[Near] = (),
        policy: Policy | None = None,
        reasons: Reasons | None = None,
    ) -> None:
        """`sources` has the remote registry for each upstream's name, `connections` how many may bring one blob;
        `near` are the ECR targets that are read, nearest first; `policy` has the operator's rules, if there are any."""
        self._store = store
        self._catalog = catalog
        self._sources = sources
        self._lanes = {name: Lanes(count) for name, count in connections.items()}
        self._metrics = metrics
        self._near = near
        self._policy = policy
        self._reasons = reasons or Reasons(store)
        self._flights: dict[Digest, Flight] = {}
        self._refusals = Refusals()
        self._confirmations: Shared[tuple[int, Tier]] = Shared()
        metrics.flights.set_function(lambda: len(self._flights))

    async def size(self, repository: Repository, digest: Digest) -> tuple[int, Origin]:
        """The size in bytes, without downloading anything, and who says so.

        Raises:
            BlobUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
        """
        self._check(repository, digest)
        if self._catalog.blob_size(repository, digest) is not None and digest in self._store:
            return self._store.size(digest), "hit"
        return await self._confirm(repository, digest)

    def at_hand(self, digest: Digest) -> bool:
        """Whether its bytes are on the disk, or arriving."""
        return digest in self._store or digest in self._flights

    def set_connections(self, upstream: str, count: int) -> None:
        """From now on so many may bring one blob of this upstream, which may be a new one."""
        self._lanes[upstream] = Lanes(count)

    @property
    def flying(self) -> int:
        """Blobs that are being fetched."""
        return len(self._flights)

    def flights(self, limit: int) -> list[Progress]:
        """The flights that began first, `limit` of them at most."""
        return [flight.progress for flight in islice(self._flights.values(), limit)]

    async def open(self, repository: Repository, digest: Digest, *, spare: bool = False) -> Blob:
        """The blob, once it is certain that it can be sent. The caller closes it. `spare`: no client waits for it.

        Raises:
            BlobUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
        """
        self._check(repository, digest)
        known = self._catalog.blob_size(repository, digest)
        while True:
            flight = self._flights.get(digest)
            if flight is None and digest in self._store:
                if known is None:
                    known, _ = await self._confirm(repository, digest)
                elif file := await self._store.open(digest):
                    return _Cached(file)
                elif digest in self._store:  # and still there: the disk does not give it out at the moment
                    return self._pass(repository, digest, known, UNREADABLE)
                continue
            if known is None and self._needs_confirmation(flight, repository):
                known, _ = await self._confirm(repository, digest)
                continue
            try:
                return await self._fly(flight, repository, digest, known, spare=spare)
            except (Unknown, Denied):
                # What one repository does not have, another may: the flight was somebody else's.
                if flight is None or flight.repository == repository:
                    raise
            except (UpstreamFailure, UpstreamInvalid):
                # The same goes for another upstream's outage.
                if flight is None or flight.repository.upstream == repository.upstream:
                    raise

    def _check(self, repository: Repository, digest: Digest) -> None:
        if self._policy is not None:
            self._policy.check_digest(repository, digest)

    def _needs_confirmation(self, flight: Flight | None, repository: Repository) -> bool:
        """Whether upstream has to say first that the repository holds a blob that none of its manifests names: where
        the bytes may come from elsewhere. Behind a balancer that is so for every blob, at its home."""
        return self._tiers(repository).copied if flight is None else flight.repository != repository

    async def close(self) -> None:
        """End every flight; followers are told."""
        await self._confirmations.close()
        await asyncio.gather(*(flight.cancel() for flight in list(self._flights.values())))

    async def _fly(
        self, flight: Flight | None, repository: Repository, digest: Digest, known: int | None, *, spare: bool
    ) -> Blob:
        joined = flight is not None
        reason = JOINED if joined else self._reasons.of_blob(digest)
        if flight is None:
            self._refusals.check(repository, digest)
            if known is not None and not self._store.admits(known):
                return self._pass(repository, digest, known, past(reason, self._store.trouble or TOO_LARGE))
            flight = self._start(repository, digest, known, spare=spare)
        else:
            self._metrics.flight_joins.inc()
            if not spare:
                flight.hurry()
        try:
            size = await flight.opened()
        except DiskFailure as failure:
            if known is None:
                known, _ = await self._confirm(repository, digest)
            return self._pass(repository, digest, known, past(reason, str(failure)))
        except (Unknown, Denied) as refusal:
            self._refusals.remember(flight.repository, digest, refusal=refusal)
            raise
        if known not in (None, size):
            return self._pass(repository, digest, known, OTHER_SIZE)  # its upstream says otherwise: let it show
        again = partial(self.open, repository, digest, spare=spare)
        relay = self._relay(repository, digest, size)
        return _Flying(flight, relay, size, "joined" if joined else flight.tier, reason, again)

    def _pass(self, repository: Repository, digest: Digest, size: int, reason: str) -> Blob:
        return Passing(self._relay(repository, digest, size), size, reason)

    def _relay(self, repository: Repository, digest: Digest, size: int) -> Relay:
        return Relay(self._delivery(repository, digest, size), size, self._metrics)

    def _tiers(self, repository: Repository) -> Tiers:
        return Tiers(repository, self._sources[repository.upstream], self._near)

    def _delivery(self, repository: Repository, digest: Digest, known: int | None) -> Delivery:
        lanes = self._lanes[repository.upstream]
        return self._tiers(repository).delivery(digest, known, lanes, self._metrics)

    def _start(self, repository: Repository, digest: Digest, known: int | None, *, spare: bool) -> Flight:
        flight = Flight(
            self._delivery(repository, digest, known),
            known,
            store=self._store,
            metrics=self._metrics,
            ended=self._ended,
            spare=spare,
        )
        self._flights[digest] = flight
        flight.start()
        return flight

    def _ended(self, flight: Flight) -> None:
        if flight.verified and flight.tier == "upstream":
            self._catalog.add_blob(flight.repository, flight.digest, flight.size)
        del self._flights[flight.digest]

    async def _confirm(self, repository: Repository, digest: Digest) -> tuple[int, Tier]:
        """Ask whether this repository holds the blob, and who says so: the same bytes elsewhere are no permission.

        Upstream's word is remembered once the bytes bear it out: a gateway's page must not stand for the blob for ever.
        That of ECR counts for the moment only, since upstream may have withdrawn the blob long ago.
        """
        answer, _ = await self._confirmations.run((repository, digest), partial(self._ask, repository, digest))
        return answer

    async def _ask(self, repository: Repository, digest: Digest) -> tuple[int, Tier]:
        self._refusals.check(repository, digest)
        try:
            size, tier = await self._tiers(repository).blob_size(digest)
        except (Unknown, Denied) as refusal:
            self._refusals.remember(repository, digest, refusal=refusal)
            raise
        if digest in self._store:
            if size != self._store.size(digest):
                raise UpstreamInvalid(f"{tier} says that {digest} has {size} bytes: that is not its size")
            if tier == "upstream":
                self._catalog.add_blob(repository, digest, size)
        return size, tier


@dataclass(frozen=True, slots=True)
class _Cached:
    """A blob on disk."""

    blob: BlobFile
    origin: Origin = "hit"
    reason: str = ""

    @property
    def size(self) -> int:
        return self.blob.size

    async def arrived(self, stop: int) -> None:
        """It is there."""

    async def kept(self) -> None:
        """It is."""

    async def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        if start < stop:
            yield Segment(self.blob.file, start, stop - start)

    def close(self) -> None:
        self.blob.close()


@dataclass(slots=True)
class _Flying:
    """A blob that is arriving. Should the disk give out meanwhile, the rest comes past it; should ECR have given wrong
    bytes, a reader who has had none of them yet begins anew with somebody else."""

    flight: Flight
    relay: Relay
    size: int
    origin: Origin
    reason: str
    again: Callable[[], Awaitable[Blob]]

    def __post_init__(self) -> None:
        self.flight.hold()

    async def arrived(self, stop: int) -> None:
        await self.flight.await_front(stop)

    async def kept(self) -> None:
        try:
            await self.flight.kept()
        except UpstreamInvalid:
            if not self.flight.misled:
                raise
            with closing(await self.again()) as blob:
                await blob.kept()

    async def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        at = start
        try:
            async with aclosing(self.flight.follow(start, stop)) as pieces:
                async for piece in pieces:
                    yield piece
                    at += piece.count if isinstance(piece, Segment) else len(piece)
        except DiskFailure:
            async with aclosing(self.relay.read(at, stop, self.flight.arrived())) as chunks:
                async for chunk in chunks:
                    yield chunk
        except UpstreamInvalid:
            if at > start or not self.flight.misled:
                raise
            async with aclosing(self._read_again(start, stop)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _read_again(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        with closing(await self.again()) as blob:
            if blob.size != self.size:
                raise UpstreamInvalid(f"the blob has {blob.size} bytes where ECR said {self.size}")
            async with aclosing(blob.read(start, stop)) as pieces:
                async for piece in pieces:
                    self.origin = blob.origin  # known at its first piece: it may have begun anew as well
                    yield piece

    def close(self) -> None:
        self.flight.release()


@dataclass(frozen=True, slots=True)
class Passing:
    """A blob that the disk has no room for, or no business with."""

    relay: Relay
    size: int
    reason: str = ""
    origin: Origin = "upstream"

    async def arrived(self, stop: int) -> None:
        """Nothing arrives until it is read."""

    async def kept(self) -> None:
        raise DiskFailure(
            "the disk cache has no room for it, or cannot be used at the moment; `millpond status` says why"
        )

    def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        return self.relay.read(start, stop)

    def close(self) -> None:
        """There is nothing to close: each reading has a connection of its own."""
