"""Clients of AWS for the event loop: one for each account, calls in threads of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from proxy.ecr.errors import Unreachable
from proxy.ecr.threads import Threads

if TYPE_CHECKING:
    from proxy.ecr.aws import Caller

# For a whole call with its wait for a thread: 14 MB at a megabit a second, and the answer.
DEADLINE: Final = 180.0


@dataclass(frozen=True, slots=True)
class Account:
    """One service in one region, as one identity.

    `role_arn` is assumed on top of what boto3's own chain finds, and assumed again before it expires; None: the
    chain's. `endpoint_url` None: AWS's, as AWS_ENDPOINT_URL_*, AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT
    have it.
    """

    service: str
    region: str
    role_arn: str | None = None
    endpoint_url: str | None = None

    @property
    def where(self) -> str:
        """For messages; an endpoint without what may be a password."""
        at = f" at {urlsplit(self.endpoint_url).netloc.rpartition('@')[2]}" if self.endpoint_url else ""
        return f"{self.service} in {self.region}{at}"


class Sessions:
    """Every client of AWS, one for each account."""

    def __init__(self, workers: int = 16) -> None:
        """`workers` is how many calls a client makes at once: each has threads of its own, so that an endpoint that
        stalls holds up nobody else's calls."""
        self._workers = workers
        self._clients: dict[Account, Client] = {}

    def client(self, service: str, region: str, role_arn: str | None, endpoint_url: str | None) -> Client:
        """The one client for these, as `Account` has them. Nothing is looked up or connected before its first call."""
        account = Account(service, region, role_arn, endpoint_url)
        if account not in self._clients:
            self._clients[account] = Client(account, self._workers)
        return self._clients[account]

    def prepare(self) -> None:
        """Make what the first calls would make, and be late for. Blocks for a quarter of a second; calls nobody."""
        for client in self._clients.values():
            client.prepare()

    async def aclose(self) -> None:
        """Close idle connections. Calls that are under way meet their own ends."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


class Client:
    """One account's service."""

    def __init__(self, account: Account, workers: int) -> None:
        self._account = account
        self._workers = workers
        self._threads = Threads(workers)
        self._lock = threading.Lock()
        self._caller: Caller | None = None

    async def call(self, operation: str, /, *, timeout: float | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to one attempt at boto3's method `operation`, within `timeout` seconds (by default DEADLINE).

        Raises:
            Passing, Refused, Rejected: whatever is no answer of this very operation.
            ServiceError: one that is.
        """
        deadline, where = DEADLINE if timeout is None else timeout, self._account.where
        try:
            async with asyncio.timeout(deadline):
                return await self._threads.run(partial(self._call, operation, parameters), f"{where} {operation}")
        except TimeoutError:
            raise Unreachable(f"{where} has not answered {operation} within {deadline:g} s") from None

    def prepare(self) -> None:
        """Load and make what calls need. Blocks."""
        self._ready().prepare()

    def close(self) -> None:
        """Close idle connections."""
        if self._caller is not None:
            self._caller.close()

    def _call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return self._ready().call(operation, parameters)

    def _ready(self) -> Caller:
        """boto3 is loaded here: 0.15 s and 25 MiB that only its users pay."""
        with self._lock:
            if self._caller is None:
                from proxy.ecr.aws import Caller  # noqa: PLC0415

                self._caller = Caller(self._account, self._workers)
            return self._caller
