"""Every blob that a client may have: from the disk, from a flight under way, from a new one, or past the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

from proxy.cache.blobs import BlobStore
from proxy.cache.catalog import Catalog
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, DiskFailure, Unknown, UpstreamFailure, UpstreamInvalid
from proxy.oci.names import Repository
from proxy.oci.source import Source
from proxy.pull.blob import Blob, Cached, Flying, Passing
from proxy.pull.confirmations import Confirmations
from proxy.pull.flight import Flight
from proxy.pull.freshness import Refusals
from proxy.pull.givers import Givers
from proxy.pull.near import Near
from proxy.pull.origin import Origin
from proxy.pull.policy import Policy
from proxy.pull.progress import Progress
from proxy.pull.reasons import ELSEWHERE, JOINED, OTHER_SIZE, TOO_LARGE, UNREADABLE, Reasons, past


class Blobs:
    """By repository and digest. A digest has one flight at a time, whoever asks for it."""

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
        self._givers = Givers(sources, near, connections, metrics)
        self._metrics = metrics
        self._policy = policy
        self._reasons = reasons or Reasons(store)
        self._flights: dict[Digest, Flight] = {}
        self._refusals = Refusals()
        self._confirmations = Confirmations(store, catalog, self._givers, self._refusals)
        metrics.flights.set_function(lambda: len(self._flights))

    async def size(self, repository: Repository, digest: Digest) -> tuple[int, Origin, str]:
        """The size in bytes, without downloading anything; who says so; and why that is not the disk, empty if it is.

        Raises:
            BlobUnknown, Denied, UpstreamFailure, UpstreamInvalid: as upstream answers.
        """
        self._check(repository, digest)
        if self._catalog.blob_size(repository, digest) is not None and digest in self._store:
            return self._store.size(digest), "hit", ""
        reason = ELSEWHERE if digest in self._store else self._reasons.of_blob(digest)
        return *await self._confirmations.ask(repository, digest), reason

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
                    known, _ = await self._confirmations.ask(repository, digest)
                elif file := await self._store.open(digest):
                    return Cached(file, partial(self._store.spoilt, digest))
                elif digest in self._store:  # and still there: the disk does not give it out at the moment
                    return self._pass(repository, digest, known, UNREADABLE)
                continue
            if known is None and self._needs_confirmation(flight, repository):
                known, _ = await self._confirmations.ask(repository, digest)
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
        return self._givers.tiers(repository).copied if flight is None else flight.repository != repository

    async def _fly(
        self, flight: Flight | None, repository: Repository, digest: Digest, known: int | None, *, spare: bool
    ) -> Blob:
        """By `flight`, or by a new one where there is none."""
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
                known, _ = await self._confirmations.ask(repository, digest)
            return self._pass(repository, digest, known, past(reason, str(failure)))
        except (Unknown, Denied) as refusal:
            self._refusals.remember(flight.repository, digest, refusal=refusal)
            raise
        if known not in (None, size):
            return self._pass(repository, digest, known, OTHER_SIZE)  # its upstream says otherwise: let it show
        again = partial(self.open, repository, digest, spare=spare)
        relay = self._givers.relay(repository, digest, size)
        return Flying(flight, relay, size, "joined" if joined else flight.tier, reason, again)

    def _start(self, repository: Repository, digest: Digest, known: int | None, *, spare: bool) -> Flight:
        flight = Flight(
            self._givers.delivery(repository, digest, known),
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

    def _pass(self, repository: Repository, digest: Digest, size: int, reason: str) -> Blob:
        return Passing(self._givers.relay(repository, digest, size), size, reason)

    def at_hand(self, digest: Digest) -> bool:
        """Whether its bytes are on the disk, or arriving."""
        return digest in self._store or digest in self._flights

    @property
    def flying(self) -> int:
        """Blobs that are being fetched."""
        return len(self._flights)

    def flights(self, limit: int) -> list[Progress]:
        """The flights that began first, `limit` of them at most."""
        return [flight.progress for flight in islice(self._flights.values(), limit)]

    def set_connections(self, upstream: str, count: int) -> None:
        """From now on so many may bring one blob of this upstream, which may be a new one."""
        self._givers.set_connections(upstream, count)

    async def close(self) -> None:
        """End every flight; followers are told."""
        await self._confirmations.close()
        await asyncio.gather(*(flight.cancel() for flight in list(self._flights.values())))
