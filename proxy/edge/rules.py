"""Who may pull what: the operator's rules, in order; the first that matches decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from proxy.oci.names import Repository, Tag
from proxy.pull.rules import Globs

_REMEMBERED: Final = 16_384  # verdicts, of some 300 bytes each: what a fleet asks for again and again


@dataclass(frozen=True, slots=True)
class Rule:
    """`None` matches everything. `repositories` are matched as `upstream/path`."""

    allow: bool
    users: Globs | None = None
    upstreams: frozenset[str] | None = None
    repositories: Globs | None = None
    tags: Globs | None = None
    reason: str = ""  # for whom it denies

    def concerns(self, repository: Repository, tag: Tag | None) -> bool:
        """Whether it is about this, whoever asks. `tag` is None for what is asked by digest, and for the whole.

        A tag that may be pulled is pulled as manifests and blobs by digest, so what allows a tag allows digests. What
        denies a tag denies that name, and nothing else.
        """
        return (
            (self.upstreams is None or repository.upstream in self.upstreams)
            and (self.repositories is None or self.repositories.match(str(repository)))
            and (self.tags is None or (self.allow if tag is None else self.tags.match(tag)))
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    why: str = ""  # for whom it is denied
    depends: bool = False  # another user might get another one


class Rules:
    """What no rule matches is allowed if `default` says so."""

    def __init__(self, rules: Sequence[Rule], *, default: bool) -> None:
        self._rules = tuple(rules)
        self._default = default
        self.verdict = lru_cache(_REMEMBERED)(self._verdict)

    def _verdict(self, user: str, repository: Repository, tag: Tag | None) -> Verdict:
        depends = False
        for number, rule in enumerate(self._rules):
            if not rule.concerns(repository, tag):
                continue
            depends = depends or rule.users is not None
            if rule.users is None or rule.users.match(user):
                why = rule.reason or "the operator's rules do not allow it"
                return Verdict(True) if rule.allow else Verdict(False, f"{why} (access.rules[{number}])", depends)
        return Verdict(self._default, "none of the operator's rules allows it (access.default)", depends)
