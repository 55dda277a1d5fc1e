"""Where every decision of a policy is told: a line in the log, and a count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal

import structlog

from proxy.observe.metrics import Metrics

Decision = Literal["passed", "exempted", "held", "refused", "unscanned"]
"""held: a digest known for longer was served instead; unscanned: allowed, though nobody has looked into it."""

SECTION: Final = "policy"
"""Of the configuration: rules are named by their keys, as somebody finds them there."""


Told = Callable[[str, str, str, Mapping[str, object]], None]
"""Rule, decision, image, and what led to it."""


def untold(_rule: str, _decision: str, _image: str, _more: Mapping[str, object]) -> None:
    """Where nobody wants to know."""


class Decisions:
    def __init__(self, metrics: Metrics, told: Told = untold) -> None:
        """`told` is called for each decision."""
        self._count = metrics.policy_decisions
        self._told = told

    def say(self, rule: str, decision: Decision, image: str, **more: object) -> None:
        """`rule` is a key below `policy`, such as `cooldown[0]`; `image` as `named` has it."""
        self._count.labels(rule.partition("[")[0], decision).inc()
        log = structlog.get_logger()
        tell = log.warning if decision in ("refused", "unscanned") else log.info
        tell("policy", rule=f"{SECTION}.{rule}", decision=decision, image=image, **more)
        self._told(f"{SECTION}.{rule}", decision, image, more)


class Unsaid(Decisions):
    """For a rehearsal: nothing has been decided."""

    def __init__(self) -> None:
        """It counts nothing."""

    def say(self, rule: str, decision: Decision, image: str, **more: object) -> None:
        """Nobody is told."""


def named(repository: object, reference: str) -> str:
    """The image's name as people write it."""
    return f"{repository}{'@' if ':' in reference else ':'}{reference}"
