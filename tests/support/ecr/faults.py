"""What a test may do to the cloud, and where in a call it strikes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.ecr.errors import AwsError, BrokenOffError

ANY: Final = "*"
DOWNLOAD: Final = "DownloadLayer"
"""The operation's name for a GET at the presigned port."""

_STALL_DEADLINE: Final = 120.0  # seconds; longer than any test may take
_FLAKINESS: Final = ("ServerException", "ServiceUnavailable", "ThrottlingException", "before", "after")


@dataclass
class Call:
    """One request. `time` and `ended` are of the monotonic clock; blobs are left out of `parameters`.

    `outcome` is "ok", the error's code, "broken" where the connection was closed, and "" while it is under way.
    """

    operation: str
    account: str = ""
    region: str = ""
    principal: str = ""
    caller: str = field(default="", repr=False)
    parameters: dict[str, Any] = field(default_factory=dict)
    outcome: str = ""
    time: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    break_after: bool = field(default=False, repr=False)

    @property
    def resource(self) -> str:
        """The repository's name, or the role to assume."""
        return str(self.parameters.get("repositoryName", self.parameters.get("RoleArn", "")))

    def matches(self, **wanted: Any) -> bool:
        """Whether its fields, or its parameters, have these values."""
        return all(
            (getattr(self, name) if name in Call.__dataclass_fields__ else self.parameters.get(name)) == value
            for name, value in wanted.items()
        )


@dataclass
class Stall:
    """Calls that wait. `reached` tells that one has come so far, `held` how many there have been."""

    operation: str
    at: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    held: int = 0
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let them go on, and the later ones pass."""
        self._released.set()

    @property
    def released(self) -> bool:
        return self._released.is_set()

    def wait(self) -> None:
        self.held += 1
        self.reached.set()
        self._released.wait(_STALL_DEADLINE)


@dataclass
class _Failure:
    operation: str
    error: AwsError | None  # None: the connection breaks
    times: float
    after: int
    done: bool
    matching: dict[str, Any]


@dataclass
class _Bucket:
    rate: float
    level: float
    filled: float

    def take(self) -> bool:
        now = time.monotonic()
        self.level = min(max(1.0, self.rate), self.level + (now - self.filled) * self.rate)
        self.filled = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(frozen=True, slots=True)
class _Denial:
    operation: str
    principal: str | None
    resource: str | None


class Faults:
    """`operation` is a name such as PutImage, AssumeRole or DownloadLayer, or "*" for all of ECR's own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._failures: list[_Failure] = []
        self._stalls: list[Stall] = []
        self._rates: dict[str, float] = {}
        self._buckets: dict[tuple[str, str, str], _Bucket] = {}
        self._denials: list[_Denial] = []
        self._flaky: tuple[float, random.Random] = (0.0, random.Random(0))
        self._unavailable = False

    def fail(
        self,
        operation: str,
        code: str,
        times: float = 1,
        status: int = 400,
        *,
        after: int = 0,
        message: str = "scripted by the test",
        fields: dict[str, Any] | None = None,
        **matching: Any,
    ) -> None:
        """The next `times` calls (math.inf: all) are refused with `code`, once `after` of them have passed.

        `fields` are the error's other members; `matching` are those of the call, as in `Call.matches`.
        """
        error = AwsError(code, message, status, **(fields or {}))
        with self._lock:
            self._failures.append(_Failure(operation, error, times, after, False, matching))

    def break_off(
        self, operation: str, times: float = 1, *, done: bool = False, after: int = 0, **matching: Any
    ) -> None:
        """The connection breaks instead of an answer. `done`: only after the call has taken effect."""
        with self._lock:
            self._failures.append(_Failure(operation, None, times, after, done, matching))

    def throttle(self, operation: str, per_second: float) -> None:
        """Allow so many calls in each account and region, and a second's worth at once; 0 is none at all."""
        with self._lock:
            self._rates[operation] = per_second
            self._buckets.clear()

    def flaky(self, share: float, seed: int = 0) -> None:
        """Fail this share of ECR's calls (0 to 1) in all ways that pass: errors, throttling, broken connections."""
        with self._lock:
            self._flaky = (share, random.Random(seed))

    def deny(self, operation: str, principal: str | None = None, resource: str | None = None) -> None:
        """Permit it no longer: to this user's or role's ARN, on this repository or role; None is every one."""
        with self._lock:
            self._denials.append(_Denial(operation, principal, resource))

    def stall(self, operation: str, at: int = 0) -> Stall:
        """Calls wait until the result is released: before anything happens, a download before byte `at` is sent."""
        made = Stall(operation, at)
        with self._lock:
            self._stalls.append(made)
        return made

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """Meanwhile everything answers 503, downloads as well."""
        self._unavailable = True
        try:
            yield
        finally:
            self._unavailable = False

    def behave(self) -> None:
        """Forget every failure, rate, denial and stall, and let go what waits."""
        with self._lock:
            for stall in self._stalls:
                stall.release()
            for scripted in (self._failures, self._stalls, self._denials):
                scripted.clear()
            self._rates.clear()
            self._flaky = (0.0, random.Random(0))
            self._unavailable = False

    def strike(self, call: Call) -> None:
        """Apply what was scripted to a call that has been recorded, before it is carried out.

        Raises:
            AwsError: it fails.
            BrokenOffError: the connection is closed.
        """
        if call.operation != DOWNLOAD:
            for stall in self.stalls_of(call):
                stall.wait()
        if self._unavailable:
            raise AwsError("ServiceUnavailable", "the service is not available", 503)
        with self._lock:
            self._check_rate(call)
            self._check_permission(call, call.operation)
            self._check_failures(call)
            self._check_luck(call)

    def stalls_of(self, call: Call) -> list[Stall]:
        """Where this call has to wait."""
        with self._lock:
            return [stall for stall in self._stalls if _concerns(stall.operation, call) and not stall.released]

    def permit(self, call: Call, operation: str) -> None:
        """Check the permission for what a call does besides its own name, such as TagResource.

        Raises:
            AwsError: AccessDeniedException.
        """
        with self._lock:
            self._check_permission(call, operation)

    def _check_rate(self, call: Call) -> None:
        rate = self._rates.get(call.operation)
        if rate is None:
            return
        key = (call.account, call.region, call.operation)
        bucket = self._buckets.setdefault(key, _Bucket(rate, max(1.0, rate) if rate else 0.0, time.monotonic()))
        if not bucket.take():
            raise AwsError("ThrottlingException", "Rate exceeded")

    def _check_permission(self, call: Call, operation: str) -> None:
        for denial in self._denials:
            if (
                _concerns(denial.operation, call, operation)
                and denial.principal in (None, call.principal)
                and denial.resource in (None, call.resource)
            ):
                service = "sts" if operation.startswith("AssumeRole") else "ecr"
                raise AwsError(
                    "AccessDeniedException",
                    f"User: {call.caller} is not authorized to perform: {service}:{operation} on resource: "
                    f"{call.resource or ANY} because no identity-based policy allows the {service}:{operation} action",
                )

    def _check_failures(self, call: Call) -> None:
        for failure in self._failures:
            if not _concerns(failure.operation, call) or not call.matches(**failure.matching) or failure.times <= 0:
                continue
            if failure.after > 0:
                failure.after -= 1
                continue
            failure.times -= 1
            if failure.error:
                raise failure.error
            if not failure.done:
                raise BrokenOffError
            call.break_after = True

    def _check_luck(self, call: Call) -> None:
        share, chance = self._flaky
        if call.operation in OUTSIDE or chance.random() >= share:
            return
        how = chance.choice(_FLAKINESS)
        if how == "before":
            raise BrokenOffError
        if how == "after":
            call.break_after = True
            return
        raise AwsError(how, "scripted: flaky", {"ServerException": 500, "ServiceUnavailable": 503}.get(how, 400))


OUTSIDE: Final = frozenset({DOWNLOAD, "AssumeRole", "AssumeRoleWithWebIdentity", "GetCallerIdentity"})
"""What "*" and `flaky` leave alone, because it is not ECR's own."""


def _concerns(scripted: str, call: Call, operation: str | None = None) -> bool:
    return scripted == (operation or call.operation) or (scripted == ANY and call.operation not in OUTSIDE)
