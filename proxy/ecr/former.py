"""Records of targets that are not configured any more: kept for a while, then forgotten.

Nobody pushes to such a target, and nothing of it is in memory as a job. But a name that is misspelled for one start, or
a target that is commented out for a day, must not cost what it had still to get. So a start without a target only notes
since when it has been without, and says in the log what waits for it. A start with the target again finds everything as
it was. The first start more than KEPT_DAYS later forgets its records, at most FORGOTTEN_AT_ONCE of them, and says that.

Only a start decides: which targets there are is not changed by a reload, whether it succeeds or fails. Where no target
is left at all the records are not even read, and stay as they are on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

import structlog

from proxy.ecr.supply import Records

# Longer than a holiday in which nobody looks whether a configuration is right.
KEPT_DAYS: Final = 14
# One write of the ledger, of a second or so; the rest goes with the next starts.
FORGOTTEN_AT_ONCE: Final = 20_000

# Begins the key of what is no job, as it begins no target's name; the target's name is the word after it.
_NO_JOB: Final = "!"
_KIND: Final = "!former"
_DAY: Final = 86_400.0


def retire(
    held: Mapping[str, list[Any]], configured: Collection[str], records: Records, now: float
) -> dict[str, list[Any]]:
    """See to what `held`, all that `records` holds from before, has of targets other than the `configured`. Returns the
    jobs of those that are. `now` is wall clock seconds."""
    jobs: dict[str, list[Any]] = {}
    former: dict[str, list[str]] = {}
    for key, record in held.items():
        target = _target(key)
        if target is None or key.startswith(f"{_KIND} "):
            continue
        if target not in configured:
            former.setdefault(target, []).append(key)
        elif not key.startswith(_NO_JOB):
            jobs[key] = record
    for mark in [key for key in held if key.startswith(f"{_KIND} ") and _target(key) not in former]:
        records.note(mark, None)  # it is back, or nothing is left of it
    left = FORGOTTEN_AT_ONCE
    for target, keys in former.items():
        since = _since(held.get(f"{_KIND} {target}"), now)
        if since is not None and now - since > KEPT_DAYS * _DAY:
            left -= _forget(target, keys[:left], keys, held, records)
            continue
        if since is None:
            since = now
            records.note(f"{_KIND} {target}", [now])
        structlog.get_logger().warning(
            "an ECR target is not configured any more: what waits for it is kept for a while",
            target=target,
            unpushed=_unpushed(keys, held),
            until=datetime.fromtimestamp(since + KEPT_DAYS * _DAY, UTC).date().isoformat(),
        )
    return jobs


def _forget(target: str, chosen: list[str], of: list[str], held: Mapping[str, list[Any]], records: Records) -> int:
    """Forget those that are `chosen` of the target's records. How many."""
    unpushed = _unpushed(chosen, held)
    for key in chosen:
        records.note(key, None)
    if len(chosen) == len(of):
        records.note(f"{_KIND} {target}", None)
    structlog.get_logger().warning(
        f"an ECR target has not been configured for {KEPT_DAYS} days: what was kept of it is forgotten",
        target=target,
        records=len(chosen),
        unpushed=unpushed,
    )
    return len(chosen)


def _target(key: str) -> str | None:
    """Whose the record is; None: no target's."""
    words = key.split(" ")
    if key.startswith(_NO_JOB):
        return words[1] if len(words) > 1 else None
    return words[0]


def _unpushed(keys: Collection[str], held: Mapping[str, list[Any]]) -> int:
    return sum("queued" in held[key][1:2] for key in keys)


def _since(record: list[Any] | None, now: float) -> float | None:
    """Since when the target is not configured; None where that is not known, or lies ahead: then it begins anew."""
    match record:
        case [int() | float() as since] if isfinite(since) and since <= now:
            return float(since)
    return None
