"""Blobs: from disk, from a flight that is under way, or from a new one; to the disk, or past it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.cache.files import BlobFile
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, DiskFailure, Unknown, UpstreamFailure, UpstreamInvalid
from proxy.oci.names import Repository
from proxy.oci.source import Source
from proxy.pull.flight import Flight, Piece, Segment
from proxy.pull.freshness import Refusals
from proxy.pull.lanes import Lanes
from proxy.pull.relay import Relay
from proxy.pull.shared import Shared

Origin = Literal["hit", "joined", "ecr", "upstream", "stale"]
"""Where an answer came from: the values of the X-Millpond header."""


class Blob(Protocol):
    """A blob that can be read, any range of it, any number of times, until it is closed."""

    @property
    def origin(self) -> Origin: ...
    @property
    def size(self) -> int: ...
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
    ) -> None:
        """`sources` has the remote registry for each upstream's name, `connections` how many may bring one blob."""
        self._store = store
        self._catalog = catalog
        self._sources = sources
        self._lanes = {name: Lanes(count) for name, count in connections.items()}
        self._metrics = metrics
        self._flights: dict[Digest, Flight] = {}
        self._refusals = Refusals()
        self._confirmations: Shared[int] = Shared()
        metrics.flights.set_function(lambda: len(self._flights))

    async def size(self, repository: Repository, digest: Digest) -> tuple[int, Origin]:
        """The size in bytes, without downloading anything, and who says so.

        Raises:
            BlobUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
        """
        if self._catalog.blob_size(repository, digest) is not None and digest in self._store:
            return self._store.size(digest), "hit"
        return await self._confirm(repository, digest), "upstream"

    async def open(self, repository: Repository, digest: Digest) -> Blob:
        """The blob, once it is certain that it can be sent. The caller closes it.

        Raises:
            BlobUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
        """
        known = self._catalog.blob_size(repository, digest)
        while True:
            flight = self._flights.get(digest)
            if flight is None and digest in self._store:
                if known is None:
                    known = await self._confirm(repository, digest)
                elif file := await self._store.open(digest):
                    return _Cached(file)
                elif digest in self._store:  # and still there: the disk does not give it out at the moment
                    return self._pass(repository, digest, known)
                continue
            if flight is not None and known is None and flight.repository != repository:
                known = await self._confirm(repository, digest)
                continue
            try:
                return await self._fly(flight, repository, digest, known)
            except (Unknown, Denied):
                # What one repository does not have, another may: the flight was somebody else's.
                if flight is None or flight.repository == repository:
                    raise
            except (UpstreamFailure, UpstreamInvalid):
                # The same goes for another upstream's outage.
                if flight is None or flight.repository.upstream == repository.upstream:
                    raise

    async def close(self) -> None:
        """End every flight; followers are told."""
        await self._confirmations.close()
        await asyncio.gather(*(flight.cancel() for flight in list(self._flights.values())))

    async def _fly(self, flight: Flight | None, repository: Repository, digest: Digest, known: int | None) -> Blob:
        origin: Origin = "upstream" if flight is None else "joined"
        if flight is None:
            self._refusals.check(repository, digest)
            if known is not None and not self._store.admits(known):
                return self._pass(repository, digest, known)
            flight = self._start(repository, digest, known)
        else:
            self._metrics.flight_joins.inc()
        try:
            size = await flight.opened()
        except DiskFailure:
            if known is None:
                known = await self._confirm(repository, digest)
            return self._pass(repository, digest, known)
        except (Unknown, Denied) as refusal:
            self._refusals.remember(flight.repository, digest, refusal=refusal)
            raise
        if known not in (None, size):
            return self._pass(repository, digest, known)  # this repository's upstream says otherwise: let it show
        return _Flying(flight, self._relay(repository, digest, size), size, origin)

    def _pass(self, repository: Repository, digest: Digest, size: int) -> Blob:
        return _Passing(self._relay(repository, digest, size), size)

    def _relay(self, repository: Repository, digest: Digest, size: int) -> Relay:
        return Relay(self._sources[repository.upstream], repository, digest, size, self._metrics)

    def _start(self, repository: Repository, digest: Digest, known: int | None) -> Flight:
        flight = Flight(
            digest,
            known,
            repository,
            self._sources[repository.upstream],
            lanes=self._lanes[repository.upstream],
            store=self._store,
            metrics=self._metrics,
            ended=self._ended,
        )
        self._flights[digest] = flight
        flight.start()
        return flight

    def _ended(self, flight: Flight) -> None:
        if flight.verified:
            self._catalog.add_blob(flight.repository, flight.digest, flight.size)
        del self._flights[flight.digest]

    async def _confirm(self, repository: Repository, digest: Digest) -> int:
        """Ask upstream whether this repository holds the blob: the same bytes elsewhere are no permission.

        The size is remembered only once the bytes bear it out: a gateway's page must not stand for the blob for ever.
        """
        size, _ = await self._confirmations.run((repository, digest), partial(self._ask, repository, digest))
        return size

    async def _ask(self, repository: Repository, digest: Digest) -> int:
        self._refusals.check(repository, digest)
        try:
            size = await self._sources[repository.upstream].blob_size(repository.path, digest)
        except (Unknown, Denied) as refusal:
            self._refusals.remember(repository, digest, refusal=refusal)
            raise
        if digest in self._store:
            if size != self._store.size(digest):
                raise UpstreamInvalid(f"upstream says that {digest} has {size} bytes: that is not its size")
            self._catalog.add_blob(repository, digest, size)
        return size


@dataclass(frozen=True, slots=True)
class _Cached:
    """A blob on disk."""

    blob: BlobFile
    origin: Origin = "hit"

    @property
    def size(self) -> int:
        return self.blob.size

    async def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        if start < stop:
            yield Segment(self.blob.file, start, stop - start)

    def close(self) -> None:
        self.blob.close()


@dataclass(frozen=True, slots=True)
class _Flying:
    """A blob that is arriving. Should the disk give out meanwhile, the rest comes past it."""

    flight: Flight
    relay: Relay
    size: int
    origin: Origin

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

    def close(self) -> None:
        """The flight looks after its file."""


@dataclass(frozen=True, slots=True)
class _Passing:
    """A blob that the disk has no room for."""

    relay: Relay
    size: int
    origin: Origin = "upstream"

    def read(self, start: int, stop: int) -> AsyncGenerator[Piece, None]:
        return self.relay.read(start, stop)

    def close(self) -> None:
        """There is nothing to close: each reading has a connection of its own."""
