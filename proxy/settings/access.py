"""The `access` section: who may pull what. Without it, everybody who reaches the port may pull everything."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, model_validator

from proxy.edge.rules import Rule as EdgeRule
from proxy.pull.rules import Globs
from proxy.settings.base import Misfit, Section, WholeNumber, as_list, entries
from proxy.settings.credentials import Credentials, read_passwords, read_tokens
from proxy.settings.patterns import patterns_fit
from proxy.settings.values import positive_duration, readable_file

if TYPE_CHECKING:
    from proxy.settings.model import Settings

MAX_REASON: Final = 300  # characters: a client prints it on a line
MAX_RULES: Final = 1000  # each is looked at for a pull that no one has asked for before
MAX_PATTERN: Final = 512

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(value: Any) -> Network:
    hint = 'write "10.0.0.0/8", "192.0.2.7" or "2001:db8::/32"'
    if isinstance(value, Network):
        return value
    if not isinstance(value, str):
        raise ValueError(f"not a network; {hint}")
    try:
        network = ipaddress.ip_network(value.strip(), strict=False)
    except ValueError:
        raise ValueError(f"not a network; {hint}") from None
    if ipaddress.ip_network(value.strip().partition("/")[0]).network_address != network.network_address:
        raise ValueError(f'this is an address within a network; write the network, "{network}", or the address alone')
    return network


def _pattern(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_PATTERN:
        raise ValueError('not a pattern; write text, in quotes if it begins with a star, such as "*-dev"')
    return value


def _reason(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_REASON or not value.isprintable():
        raise ValueError(f"not a reason; write one line of at most {MAX_REASON} characters")
    return value


def _listed(value: Any) -> Any:
    """An empty list would match nothing, or everything: which of them is not to be guessed."""
    listed = as_list(value)
    if isinstance(listed, list | tuple) and not listed:
        raise ValueError("this is empty; write what the rule is for, or leave it out, and it is for all")
    return listed


Networks = Annotated[tuple[Annotated[Network, PlainValidator(_network)], ...], BeforeValidator(as_list)]
Patterns = Annotated[tuple[Annotated[str, PlainValidator(_pattern)], ...], BeforeValidator(_listed)]
ReadableFile = Annotated[Path, PlainValidator(readable_file)]


class Rule(Section):
    """What is left out matches everything."""

    action: Literal["allow", "deny"]
    users: Patterns | None = None
    upstreams: Patterns | None = None
    repositories: Patterns | None = None
    tags: Patterns | None = None
    reason: Annotated[str, PlainValidator(_reason)] = ""

    @model_validator(mode="after")
    def _reason_is_told(self) -> Self:
        if self.reason and self.action == "allow":
            raise Misfit(("reason",), self.reason, "nobody would be told it, as this rule allows; leave it out")
        return self


class Access(Section):
    """Networks, users and rules of the registry port."""

    networks: Networks = ()
    trusted_forwarders: Networks = ()
    htpasswd_file: ReadableFile | None = None
    tokens_file: ReadableFile | None = None
    anonymous: bool = False
    rules: Annotated[tuple[Rule, ...], BeforeValidator(entries), Field(max_length=MAX_RULES)] = ()
    default: Literal["allow", "deny"] = "deny"
    max_pulls: Annotated[WholeNumber, Field(ge=1)] | None = None
    max_wait: Annotated[float, PlainValidator(positive_duration)] = 20.0  # below the 30 s of containerd

    @property
    def has_users(self) -> bool:
        return self.htpasswd_file is not None or self.tokens_file is not None

    def credentials(self) -> Credentials:
        """What the two files hold now. Raises Misfit, with the key's path below this section."""
        return Credentials(
            _read(read_passwords, "htpasswd_file", self.htpasswd_file),
            _read(read_tokens, "tokens_file", self.tokens_file),
        )

    @model_validator(mode="after")
    def _users_are_usable(self) -> Self:
        self.credentials()
        if self.anonymous and not self.has_users:
            message = (
                "without htpasswd_file and tokens_file nobody is asked for credentials; add one, or leave this out"
            )
            raise Misfit(("anonymous",), True, message)
        return self

    @model_validator(mode="after")
    def _something_is_allowed(self) -> Self:
        if self.rules and self.default == "deny" and all(rule.action == "deny" for rule in self.rules):
            message = "every rule denies and so does this, so that nothing could be pulled; write allow, or add a rule"
            raise Misfit(("default",), self.default, message)
        return self


def rules_fit(access: Access, names: Mapping[str, str], *, certificates: bool) -> None:
    """Raises Misfit, with the key's path from the top, for a rule that would never match.

    `names` are all names of the upstreams, with the one that is meant; `certificates`: clients must show one.
    """
    for index, rule in enumerate(access.rules):
        path = ("access", "rules", index)
        if rule.users is not None and not access.has_users and not certificates:
            message = "no client has a name; add htpasswd_file or tokens_file, or registry.tls.client_ca_file"
            raise Misfit((*path, "users"), list(rule.users), message)
        for number, name in enumerate(rule.upstreams or ()):
            if name not in names:
                message = f"there is no such upstream; write names of these: {', '.join(sorted(set(names.values())))}"
                raise Misfit((*path, "upstreams", number), name, message)
        patterns_fit((*path, "repositories"), rule.repositories or (), names)


def access_rules(settings: Settings) -> tuple[EdgeRule, ...]:
    """The configured rules as `proxy.edge` takes them."""

    def globs(patterns: tuple[str, ...] | None) -> Globs | None:
        return Globs(patterns) if patterns is not None else None

    names = settings.names
    return tuple(
        EdgeRule(
            allow=rule.action == "allow",
            users=globs(rule.users),
            upstreams=frozenset(names[name] for name in rule.upstreams) if rule.upstreams is not None else None,
            repositories=globs(rule.repositories),
            tags=globs(rule.tags),
            reason=rule.reason,
        )
        for rule in settings.access.rules
    )


def _read(read: Any, key: str, file: Path | None) -> Any:
    if file is None:
        return {}
    try:
        return read(file)
    except ValueError as error:
        raise Misfit((key,), str(file), str(error)) from None
