"""One line in the log for each pull of several requests: where it came from, and why."""

from __future__ import annotations

from typing import Final

import structlog

from proxy.observe.pull import Pull

# What the line of each request has too, or the line itself.
_NOT_TOLD: Final = frozenset({"id", "at", "done"})


def log_pull(pull: Pull) -> None:
    """The pull is done. One of a single request has its line already, which says the same."""
    if pull.requests < 2:
        return
    fields = {key: value for key, value in pull.row().items() if key not in _NOT_TOLD and value not in ("", None)}
    log = structlog.get_logger()
    (log.warning if pull.status >= 500 or pull.outcome == "aborted" else log.info)("pull", **fields)
