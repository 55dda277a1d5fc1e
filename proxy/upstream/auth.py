"""Who Millpond is to an upstream: challenges remembered, tokens cached, one fetch for any number of callers."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from proxy.oci.errors import Denied, UpstreamFailure, UpstreamInvalid, UpstreamUnreachable
from proxy.oci.secret import Secret
from proxy.upstream.breaker import Clock
from proxy.upstream.challenge import parse_challenges
from proxy.upstream.endpoint import Endpoint, Observer, Timeouts
from proxy.upstream.exchange import Exchange
from proxy.upstream.failures import credentials_hint, refusal
from proxy.upstream.guard import Guard, Target
from proxy.upstream.retry import retried
from proxy.upstream.transport import Fields

# The default of Docker's token specification, which also says that no token lives for less.
DEFAULT_LIFETIME: Final = 60.0
# A server whose clock or arithmetic is wrong must not cause a token request for every pull, nor be trusted for ever.
SHORTEST_LIFETIME: Final = 10.0
LONGEST_LIFETIME: Final = 12 * 3600.0
# Fetch the next one while the old one still works.
REFRESH_AT: Final = 0.8
# A refusal of what was made less than this ago (in seconds) is not for its age.
FRESH: Final = 60.0
# Tokens are a few KiB (those of cloud registries up to 30).
MAX_TOKEN_BODY: Final = 1024 * 1024
# A token a repository; beyond this the least recently used is fetched anew.
MAX_TOKENS: Final = 4096
MAX_SCOPES: Final = 16

# How ECR refuses a password that has expired, and ECR Public a token (aws/containers-roadmap#2835).
_EXPIRED: Final = frozenset({400, 403})
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+\Z")


@dataclass(frozen=True, slots=True)
class _Bearer:
    """A bearer challenge as far as it counts; also the key of its token (an authenticator has one credential)."""

    realm: Target
    service: str | None
    scopes: tuple[str, ...]

    def for_path(self, path: str | None) -> _Bearer:
        return _Bearer(self.realm, self.service, _own_scope(path))


@dataclass(frozen=True, slots=True)
class _Token:
    header: Secret
    made_at: float
    refresh_at: float
    expires_at: float


class Authenticator:
    """The Authorization header for requests to one upstream's own origin."""

    def __init__(
        self,
        endpoint: Endpoint,
        guard: Guard,
        exchange: Exchange,
        *,
        timeouts: Timeouts,
        observer: Observer,
        clock: Clock = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._guard = guard
        self._exchange = exchange
        self._within = timeouts.whole
        self._observer = observer
        self._clock = clock
        self.uses_tokens = False  # whether upstream's latest challenge was for a token
        self._basic: Secret | None = None  # once upstream has asked for it
        self._given: Secret | None = None  # the latest that has been made of credentials
        self._given_at = 0.0
        self._bearer: _Bearer | None = None  # upstream's latest challenge: a guess for repositories not yet seen
        self._bearers: OrderedDict[str | None, _Bearer] = OrderedDict()
        self._tokens: OrderedDict[_Bearer, _Token] = OrderedDict()
        self._fetches: dict[_Bearer, asyncio.Task[_Token]] = {}

    async def header(self, path: str | None) -> Secret | None:
        """What to send with a request about repository `path` (None: about none), by what upstream asked for before."""
        if self._basic is not None:
            self._basic = await self._credentials()
            return self._basic
        bearer = self._bearers.get(path) or (self._bearer.for_path(path) if self._bearer else None)
        return await self._token(bearer, path) if bearer else None

    async def answer(self, path: str | None, challenges: Sequence[str]) -> Secret:
        """The answer to the WWW-Authenticate lines of a 401, which are remembered.

        Raises:
            Denied: upstream wants credentials that are not configured, or refuses those that are.
            UpstreamInvalid: the challenge cannot be understood, or leads where nothing may be sent.
        """
        offered = parse_challenges(challenges)
        for challenge in offered:
            realm = challenge.get("realm")
            if challenge.scheme == "bearer" and realm:
                target = self._guard.realm(realm)
                asked = (challenge.get("scope") or "").split()[:MAX_SCOPES]
                scopes = tuple(dict.fromkeys((*_own_scope(path), *asked)))
                bearer = _Bearer(target, challenge.get("service"), scopes)
                self._basic, self.uses_tokens = None, True
                self._bearer = self._bearers[path] = bearer
                self._bearers.move_to_end(path)
                _trim(self._bearers)
                return await self._token(bearer, path)
        if any(challenge.scheme == "basic" for challenge in offered):
            if not self._endpoint.has_credentials:
                raise Denied(f"upstream {self._endpoint.name} asks for a password; {credentials_hint(self._endpoint)}")
            self._bearer, self.uses_tokens = None, False
            self._bearers.clear()
            self._basic = await self._credentials()
            return self._basic
        raise UpstreamInvalid(
            f"upstream {self._endpoint.name} answered 401 without a Bearer or Basic challenge that can be answered"
        )

    def is_stale(self, header: Secret, status: int) -> bool:
        """Whether `status` may be for the age of `header`, so that the request is worth another one.

        Where Millpond logs in, such a refusal looks like that of a forbidden repository, which must not cost a login
        for every pull.
        """
        if status not in _EXPIRED or self._endpoint.login is None:
            return status == 401
        made = [token.made_at for token in self._tokens.values() if token.header == header]
        if header == self._given:
            made.append(self._given_at)
        # One that is not here any more has been dropped meanwhile: there is a newer one to be had for nothing.
        return all(self._clock() - made_at >= FRESH for made_at in made)

    def drop(self, path: str | None, header: Secret) -> None:
        """Forget what did not work: the next challenge counts. A newer token that others fetched meanwhile stays."""
        self._bearers.pop(path, None)
        if header == self._basic:
            self._basic = None
        self._refused(header)
        for bearer in [bearer for bearer, token in self._tokens.items() if token.header == header]:
            del self._tokens[bearer]

    async def aclose(self) -> None:
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    async def _token(self, bearer: _Bearer, path: str | None) -> Secret:
        token = self._tokens.get(bearer)
        if token is not None:
            self._tokens.move_to_end(bearer)
            if self._clock() < token.refresh_at:
                return token.header
        fetch = self._fetches.get(bearer)
        if fetch is None:
            # A task of its own: a caller that leaves takes nobody's token along.
            fetch = self._fetches[bearer] = asyncio.create_task(self._fetch(bearer, path), name="token fetch")
            fetch.add_done_callback(lambda done: self._fetched(bearer, done))
        try:
            return (await asyncio.shield(fetch)).header
        except asyncio.CancelledError:
            if fetch.cancelled() and not _leaving():
                raise UpstreamUnreachable(f"upstream {self._endpoint.name}: Millpond is shutting down") from None
            raise
        except UpstreamFailure:
            if token is not None and self._clock() < token.expires_at:
                return token.header  # refreshing early is what makes this possible
            raise
        except (Denied, UpstreamInvalid):
            # The realm may have moved: ask for a fresh challenge next time.
            self._bearers.pop(path, None)
            self._bearer = None
            raise

    def _fetched(self, bearer: _Bearer, fetch: asyncio.Task[_Token]) -> None:
        del self._fetches[bearer]
        error = None if fetch.cancelled() else fetch.exception()  # retrieved, though every caller may have left
        if fetch.cancelled() or error is not None:
            self._observer.token(self._endpoint.name, "denied" if isinstance(error, Denied) else "failed")
            return
        self._tokens[bearer] = fetch.result()
        _trim(self._tokens)
        self._observer.token(self._endpoint.name, "fetched")

    async def _fetch(self, bearer: _Bearer, path: str | None) -> _Token:
        parameters = [("service", bearer.service)] if bearer.service else []
        query = urlencode(parameters + [("scope", scope) for scope in bearer.scopes])
        url = bearer.realm.path
        if query:
            url += ("&" if "?" in url else "?") + query
        given = await self._credentials() if self._endpoint.has_credentials else None
        target = bearer.realm.at(url)
        asked_at = self._clock()

        async def once() -> bytes:
            headers: Fields = {"Accept": "application/json", **({"Authorization": given} if given else {})}
            async with await self._exchange.send("GET", target, headers, "token") as reply:
                if reply.status in (401, 403):
                    raise await refusal(reply, self._endpoint, "token", path)
                if reply.status != 200:
                    raise UpstreamInvalid(
                        f"upstream {self._endpoint.name}: its token server {target} answered {reply.status}"
                    )
                return await reply.read(MAX_TOKEN_BODY, within=self._within)

        try:
            return self._parse(await retried(once), target, asked_at)
        except Denied:
            if not self._refused(given):
                raise
            given = await self._credentials()
            return self._parse(await retried(once), target, asked_at)

    def _parse(self, body: bytes, target: Target, asked_at: float) -> _Token:
        invalid = UpstreamInvalid(f"upstream {self._endpoint.name}: {target} answered without a usable token")
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise invalid from None
        if not isinstance(document, dict):
            raise invalid
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or not _VISIBLE.match(value):
            raise invalid
        lifetime = document.get("expires_in")
        if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
            lifetime = DEFAULT_LIFETIME
        lifetime = min(max(lifetime, SHORTEST_LIFETIME), LONGEST_LIFETIME)
        return _Token(Secret(f"Bearer {value}"), asked_at, asked_at + lifetime * REFRESH_AT, asked_at + lifetime)

    async def _credentials(self) -> Secret:
        if self._endpoint.login is not None:
            username, password = await self._endpoint.login()
        else:
            assert self._endpoint.username is not None
            assert self._endpoint.password is not None
            username, password = self._endpoint.username, self._endpoint.password.reveal()
        given = Secret("Basic " + base64.b64encode(f"{username}:{password}".encode()).decode())
        if given != self._given:
            self._given, self._given_at = given, self._clock()
        return given

    def _refused(self, header: Secret | None) -> bool:
        """Have a login made anew whose latest result has been refused. Whether that can be done."""
        if self._endpoint.forget is None:
            return False
        if header == self._given:
            self._endpoint.forget()
            self._given = None  # once, for any number of callers that it was refused to
        return True


def _own_scope(path: str | None) -> tuple[str, ...]:
    return (f"repository:{path}:pull",) if path else ()


def _leaving() -> bool:
    """Whether it is the caller itself that is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _trim(cache: OrderedDict[_Bearer, _Token] | OrderedDict[str | None, _Bearer]) -> None:
    while len(cache) > MAX_TOKENS:
        cache.popitem(last=False)
