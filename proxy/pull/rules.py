"""What the operator has decided about images, as plain values: made of the settings, carried out by `proxy.pull`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from types import MappingProxyType

from proxy.ecr.scan import Severity
from proxy.oci.digest import Digest


class Globs:
    """Patterns of names, such as `docker.io/library/*`. A `*` stands for any characters, slashes among them."""

    __slots__ = ("_compiled",)

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._compiled = [re.compile(translate(pattern)) for pattern in patterns]

    def first(self, *names: str) -> int | None:
        """The number of the first pattern that one of `names` is like."""
        for number, pattern in enumerate(self._compiled):
            if any(pattern.match(name) for name in names):
                return number
        return None

    def match(self, *names: str) -> bool:
        return self.first(*names) is not None


@dataclass(frozen=True, slots=True)
class Cooldown:
    """Tags of `images` (upstream/path) point at digests that have been known for `min_age` seconds.

    `exempt` are image:tag or image@digest. What was first seen before `trusted_until`, wall time in seconds, is old.
    """

    images: Globs
    min_age: float
    exempt: Globs = field(default_factory=Globs)
    trusted_until: float = 0.0


@dataclass(frozen=True, slots=True)
class ScanRule:
    """Images whose scan in the ECR `target` has findings at or above `severity` are refused."""

    target: str
    severity: Severity
    images: Globs
    refuse_unscanned: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """All of it, in the order of the configuration. `block` has the reason of each digest."""

    cooldown: tuple[Cooldown, ...] = ()
    require_digest: Globs | None = None
    block: Mapping[Digest, str] = field(default_factory=lambda: MappingProxyType({}))
    scan_gate: ScanRule | None = None
