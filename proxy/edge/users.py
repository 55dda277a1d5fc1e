"""Whose credentials a request carries: passwords by bcrypt, tokens by their hashes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import bcrypt

from proxy.edge.addresses import Address
from proxy.edge.guesses import REFILL, Guesses, Recent
from proxy.oci.errors import TooManyRequests, Unauthenticated
from proxy.pull.shared import Shared

# bcrypt is slow on purpose, so what it has found right counts for so many seconds.
PROVEN_FOR: Final = 300.0
# A node with an old password asks again and again: it hears 401 at once, and nothing is computed.
WRONG_FOR: Final = 60.0
# Below the 30 s that containerd waits for a mirror's answer.
PATIENCE: Final = 20.0
# Different credentials that are checked or wait for it, of a few KB each.
MAX_CHECKS: Final = 1024
# Checks give way to what serves: two threads at most, at a low priority.
_THREADS: Final = 2
_NICE: Final = 10
_BCRYPT_BYTES: Final = 72  # of a password: bcrypt knows no more, and whatever writes htpasswd files cuts it off here


@dataclass(frozen=True, slots=True)
class _Credential:
    """`name` is None of a bearer token, which says itself whose it is."""

    name: str | None
    secret: bytes

    def __repr__(self) -> str:
        return "a credential"


class Users:
    """`passwords` are bcrypt hashes by user; `tokens` are users by the SHA-256 of each token.

    No credential is kept, only its HMAC under a key of this process.
    """

    def __init__(self, passwords: Mapping[str, str] | None = None, tokens: Mapping[bytes, str] | None = None) -> None:
        self.renew(passwords or {}, tokens or {})
        self._proven: Recent[str] = Recent(PROVEN_FOR)
        self._wrong: Recent[bool] = Recent(WRONG_FOR)
        self._guesses = Guesses()
        self._checks: Shared[str] = Shared()
        self._running = 0
        self._pool = ThreadPoolExecutor(_THREADS, "passwords", _give_way)

    def renew(self, passwords: Mapping[str, str], tokens: Mapping[bytes, str]) -> None:
        """From now on these are the users. How often an address has guessed wrong is not forgotten."""
        self._passwords = {name: hashed.encode() for name, hashed in passwords.items()}
        self._tokens = dict(tokens)
        # What a name that nobody has is compared with, so that the time does not tell who exists.
        self._decoy = max(self._passwords.values(), key=_cost, default=None)
        # Nothing that was found under another key is found again, what a check that goes on will find included.
        self._key = secrets.token_bytes(32)

    async def who(self, authorization: str, address: Address | None) -> str:
        """The user that an Authorization header, sent from `address`, proves.

        Raises:
            Unauthenticated: it proves none.
            TooManyRequests: too many have been wrong from there, or too many are being checked.
        """
        raw = authorization.encode("latin-1", "replace")
        key = hmac.digest(self._key, raw, "sha256")
        user = self._proven.get(key)
        if user is None:
            if self._wrong.get(key):
                raise _nobody()
            user, _ = await self._checks.run(key, partial(self._check, key, raw, address))
        return user

    async def aclose(self) -> None:
        await self._checks.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _check(self, key: bytes, raw: bytes, address: Address | None) -> str:
        credential = _read(raw)
        if credential is None:
            raise Unauthenticated("these credentials cannot be read: this registry takes Basic ones and Bearer tokens")
        user = self._by_token(credential)
        if user is None and credential.name is not None and self._decoy is not None:
            user = await self._by_password(credential.name, credential.secret, self._decoy, address)
        if user is None:
            self._wrong.put(key, value=True)
            raise _nobody()
        self._proven.put(key, user)
        return user

    def _by_token(self, credential: _Credential) -> str | None:
        """Also of a token that stands in the place of a password: many clients have no other place for it."""
        sent, found = hashlib.sha256(credential.secret).digest(), None
        for known, name in self._tokens.items():
            if hmac.compare_digest(known, sent) and credential.name in (None, name):
                found = name
        return found

    async def _by_password(self, name: str, password: bytes, decoy: bytes, address: Address | None) -> str | None:
        if self._running >= MAX_CHECKS:
            raise _busy()
        self._running += 1
        guesser = self._guesses.of(address)
        try:
            # One after the other: who sends a thousand guesses at once has them judged by what the first ones were.
            async with asyncio.timeout(PATIENCE), guesser.lock:
                if pause := guesser.pause():
                    message = "too many wrong passwords have come from this address; correct it, and try again later"
                    raise TooManyRequests(message, pause)
                hashed = self._passwords.get(name, decoy)
                loop = asyncio.get_running_loop()
                fits = await loop.run_in_executor(self._pool, bcrypt.checkpw, password[:_BCRYPT_BYTES], hashed)
                if fits and name in self._passwords:
                    return name
                guesser.wrong += 1
                return None
        except TimeoutError:
            raise _busy() from None
        finally:
            self._running -= 1


def _read(raw: bytes) -> _Credential | None:
    """RFC 7617 and RFC 6750."""
    scheme, _, rest = raw.partition(b" ")
    if scheme.lower() == b"bearer":
        return _Credential(None, rest.strip())
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, secret = base64.b64decode(rest.strip(), validate=True).partition(b":")
        return _Credential(name.decode(), secret) if colon else None
    except ValueError:
        return None


def _cost(hashed: bytes) -> bytes:
    return hashed.split(b"$")[2]  # two digits: 2 to the power of it


def _nobody() -> Unauthenticated:
    return Unauthenticated("the user name, the password or the token is wrong; log in to this registry again")


def _busy() -> TooManyRequests:
    return TooManyRequests("too many passwords are being checked; try again later", REFILL)


def _give_way() -> None:
    with contextlib.suppress(OSError):  # on Linux each thread has a priority of its own, elsewhere perhaps not
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
