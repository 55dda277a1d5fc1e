"""Who is let in, and what they may pull."""

from __future__ import annotations

import contextlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from proxy.edge.addresses import Addresses
from proxy.edge.request import MayPull, Request
from proxy.edge.rules import Rules
from proxy.edge.turns import Turns
from proxy.edge.users import Users
from proxy.observe.events import Served
from proxy.oci.errors import AccessDenied, Unauthenticated
from proxy.oci.names import Repository, Tag, parse_reference

AT_ONCE: Final = contextlib.nullcontext()
"""The turn of whoever need not wait for one."""


@dataclass(frozen=True, slots=True)
class Access:
    """The doorkeeper of the registry port; without one everybody may pull everything.

    A client's user is who its credentials say, where `users` are; else the first name of its certificate, else "".
    """

    addresses: Addresses
    users: Users | None = None
    anonymous: bool = False  # with users: a client without credentials is let in all the same
    rules: Rules | None = None
    turns: Turns | None = None

    async def admit(self, scope: Scope, headers: Headers, served: Served) -> None:
        """Find out who asks, and write it into `served`.

        Raises:
            AccessDenied: the address is in no network that may connect.
            Unauthenticated: credentials are missing or wrong.
            TooManyRequests: too many of them have been wrong.
        """
        address = self.addresses.find(served.client, headers.getlist("x-forwarded-for"))
        if address is not None:
            served.client = str(address)
        if not self.addresses.may_connect(address):
            raise AccessDenied(
                f"the address {served.client or 'of this connection'} may not pull here; "
                "whoever runs this Millpond can add its network to access.networks"
            )
        if self.users is not None:
            authorization = headers.get("authorization")
            if authorization is not None:
                served.user = await self.users.who(authorization, address)
                return
            if not self.anonymous:
                raise Unauthenticated("this registry wants a user name and a password, or a token; log in to it first")
        names = scope["extensions"].get("tls", {}).get("client_names", ())
        served.user = names[0] if names else ""

    def turn(self, request: Request) -> AbstractAsyncContextManager[None]:
        """What to enter while the request is answered.

        Raises:
            AccessDenied: the rules deny it.
            Unauthenticated: they deny it to a client without credentials, and might not with some.
            TagInvalid, DigestInvalid: what is asked for is no reference.
        """
        route, served = request.route, request.served
        if self.rules is not None and route.repository is not None:
            reference = parse_reference(route.item) if route.noun == "manifests" else None
            self._check(self.rules, served.user, route.repository, reference if isinstance(reference, Tag) else None)
        if self.turns is None or route.noun != "blobs" or request.head:
            return AT_ONCE
        return self.turns.turn(f"user {served.user}" if served.user else served.client)

    def may_pull(self, user: str) -> MayPull | None:
        """What of a list this user is shown; None without rules, for all of it."""
        rules = self.rules
        if rules is None:
            return None
        return lambda repository, tag: rules.verdict(user, repository, Tag(tag) if tag is not None else None).allowed

    def _check(self, rules: Rules, user: str, repository: Repository, tag: Tag | None) -> None:
        verdict = rules.verdict(user, repository, tag)
        if verdict.allowed:
            return
        message = f"{repository}{f':{tag}' if tag else ''} may not be pulled here: {verdict.why}"
        if verdict.depends and self.users is not None and not user:
            raise Unauthenticated(f"{message}; it may be with a user's credentials")
        raise AccessDenied(message)
