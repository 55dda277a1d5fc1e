"""Who calls: users with keys that last, and roles with keys that do not."""

from __future__ import annotations

import re
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Final

from tests.support.ecr.errors import AwsError
from tests.support.ecr.server import Request
from tests.support.ecr.sigv4 import Scope, scope_of, verify

USER: Final = "millpond"
_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::(?P<account>\d{12}):role/(?P<name>[\w+=,.@/-]+)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """One pair of keys. `arn` is the user, or the role that was assumed; `expires` is a Unix time."""

    access_key: str
    account: str
    arn: str
    caller: str  # the ARN as messages have it: with the session's name
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: float | None = None


class Principals:
    """All keys that this cloud knows."""

    def __init__(self) -> None:
        self._known: dict[str, Credentials] = {}
        self._lock = threading.Lock()

    def user(self, account: str) -> Credentials:
        """The lasting keys of the account's only user; the same each time."""
        key = f"AKIATEST{account}"
        with self._lock:
            if key not in self._known:
                arn = f"arn:aws:iam::{account}:user/{USER}"
                self._known[key] = Credentials(key, account, arn, arn, secrets.token_urlsafe(30))
            return self._known[key]

    def everyone(self) -> list[Credentials]:
        """All keys that were made so far."""
        with self._lock:
            return list(self._known.values())

    def assume(self, role_arn: str, session: str, seconds: float) -> Credentials:
        """New keys of a role.

        Raises:
            AwsError: that is no role's ARN.
        """
        found = _ROLE.fullmatch(role_arn)
        if found is None:
            raise AwsError("ValidationError", f"{role_arn} is invalid")
        account, name = found["account"], found["name"].rpartition("/")[2]
        made = Credentials(
            access_key=f"ASIA{secrets.token_hex(8).upper()}",
            account=account,
            arn=role_arn,
            caller=f"arn:aws:sts::{account}:assumed-role/{name}/{session}",
            secret_key=secrets.token_urlsafe(30),
            token=secrets.token_urlsafe(120),
            expires=time.time() + seconds,
        )
        with self._lock:
            self._known[made.access_key] = made
        return made

    def authenticate(self, request: Request) -> tuple[Credentials, Scope]:
        """Whose request it is.

        Raises:
            BadSignature: unsigned or wrongly signed.
            AwsError: the keys are unknown.
        """
        scope = scope_of(request)
        with self._lock:
            found = self._known.get(scope.access_key)
        if found is None or request.headers.get("x-amz-security-token") != found.token:
            raise AwsError("UnrecognizedClientException", "The security token included in the request is invalid.", 403)
        verify(request, lambda _: found.secret_key)
        return found, scope

    def expire(self) -> None:
        """End all keys that do not last."""
        with self._lock:
            for key, known in self._known.items():
                if known.expires is not None:
                    self._known[key] = replace(known, expires=0.0)
