"""The user and password that ECR's registries want of a docker client: from AWS, for twelve hours."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from proxy.ecr.errors import EcrError, NoCredentials, Passing
from proxy.ecr.session import Client
from proxy.oci.errors import Denied, MillpondError, UpstreamInvalid, UpstreamUnreachable

# A client waits for it: well within the 30 s that containerd gives a mirror.
DEADLINE: Final = 15.0
# A clock that is wrong on either side must not cause a call for every pull, nor be trusted for ever.
SHORTEST_LIFE: Final = 600.0
LONGEST_LIFE: Final = 12 * 3600.0
# Fetch the next one while the old one still works.
REFRESH_AT: Final = 0.8
# Seconds between two tries of that while they fail.
REFRESH_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Held:
    pair: tuple[str, str] = field(repr=False)
    refresh_at: float
    expires_at: float


class Login:
    """The credentials of one registry."""

    def __init__(self, client: Client, *, public: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`client` is one of the service `ecr`; of `ecr-public` where `public`."""
        self._client = client
        self._public = public
        self._clock = clock
        self._held: _Held | None = None
        self._fetch: asyncio.Task[_Held] | None = None

    async def credentials(self) -> tuple[str, str]:
        """(user, password), fetched once for any number of callers, and again after 80 % of their life.

        Raises:
            Denied: AWS refuses it.
            UpstreamUnreachable, UpstreamInvalid: AWS does not answer, or nothing that makes sense; or nobody gives
                Millpond credentials at the moment, which says nothing about what it may pull.
        """
        held = self._held
        if held is not None and self._clock() < held.refresh_at:
            return held.pair
        if self._fetch is None:
            # A task of its own: a caller that leaves takes nobody's password along.
            self._fetch = asyncio.create_task(self._fetched(), name="ECR login")
            self._fetch.add_done_callback(self._done)
        try:
            return (await asyncio.shield(self._fetch)).pair
        except MillpondError:
            if held is None or self._clock() >= held.expires_at:
                raise
            return held.pair  # refreshing early is what makes this possible

    def forget(self) -> None:
        """The registry has refused the last ones: fetch others next time, and keep these for when that fails, since it
        may have refused something else."""
        if self._held is not None:
            self._held = replace(self._held, refresh_at=self._clock())

    def _done(self, fetch: asyncio.Task[_Held]) -> None:
        self._fetch = None
        if fetch.cancelled():
            return
        error = fetch.exception()  # retrieved, though every caller may have left
        if error is None:
            self._held = fetch.result()
        elif self._held is not None:
            now = self._clock()
            structlog.get_logger().warning(
                "ECR login not renewed", why=str(error), seconds_left=round(self._held.expires_at - now)
            )
            self._held = replace(self._held, refresh_at=min(now + REFRESH_PAUSE, self._held.expires_at))

    async def _fetched(self) -> _Held:
        asked_at = self._clock()
        try:
            answer = await self._client.call("get_authorization_token", timeout=DEADLINE)
        except (Passing, NoCredentials) as error:
            raise UpstreamUnreachable(str(error)) from None
        except EcrError as error:
            raise Denied(str(error)) from None
        try:
            data: Any = answer["authorizationData"]
            data = data if self._public else data[0]
            user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
            life = min(max(_seconds_left(data), SHORTEST_LIFE), LONGEST_LIFE)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UpstreamInvalid("AWS answered GetAuthorizationToken without a token that can be used") from None
        return _Held((user, password), asked_at + life * REFRESH_AT, asked_at + life)


def _seconds_left(data: Mapping[str, Any]) -> float:
    """By the wall clock, which is all that AWS's answer can be compared with."""
    expires: datetime = data["expiresAt"]
    return (expires - datetime.now(UTC)).total_seconds()
