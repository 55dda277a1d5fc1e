"""What ECR's scan of an image says: how it went, and how many findings there are of each severity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

Severity = Literal["INFORMATIONAL", "LOW", "MEDIUM", "HIGH", "CRITICAL"]
"""From the least to the worst."""

SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)

ABSENT: Final = "ABSENT"
"""Millpond's word where ECR does not have the image."""
UNSCANNED: Final = "UNSCANNED"
"""Millpond's word where it has the image, and no scan of it."""

# Basic scanning completes, enhanced scanning stays active. With any other status ECR vouches for nothing.
_SCANNED: Final = frozenset({"COMPLETE", "ACTIVE"})


@dataclass(frozen=True, slots=True)
class Scan:
    """`status` is ECR's word, ABSENT or UNSCANNED; `counts` are findings by severity."""

    status: str
    counts: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def done(self) -> bool:
        return self.status in _SCANNED

    def at_least(self, severity: Severity) -> dict[str, int]:
        """How many findings there are at or above `severity`, the worst first; none left out that is not zero.

        What ECR has not judged (UNDEFINED, UNTRIAGED) counts as INFORMATIONAL.
        """
        worst_first = sorted(self.counts.items(), key=lambda item: -_rank(item[0]))
        return {name: count for name, count in worst_first if count > 0 and _rank(name) >= _rank(severity)}


def read_scan(answer: Mapping[str, Any]) -> Scan:
    """What DescribeImageScanFindings has answered."""
    status = str(answer.get("imageScanStatus", {}).get("status") or UNSCANNED)
    counts = answer.get("imageScanFindings", {}).get("findingSeverityCounts") or {}
    return Scan(status, MappingProxyType({str(name): int(count) for name, count in counts.items()}))


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else 0
