"""The audit: who pulled what, who changed what, and what rules decided, as JSON lines apart from the log.

Each line has `timestamp` and `audit`, its kind:

pull      one when it is done: client, user, image, digest, source, bytes, seconds, status, outcome, why
refused   a request that was let in nowhere, and so belongs to no pull: client, user, method, path, status, why
decision  of a rule of the policy: rule, decision, image, and what led to it
change    on the admin port: client, what was asked for, whether with the token, and how it was answered
reload    of the configuration: which keys, or why not
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from proxy.observe.events import Served
from proxy.observe.outlet import Outlet
from proxy.observe.pull import Pull

Stream = Path | Literal["stdout"]
"""A file to append to, or the standard output."""

_STDOUT: Final = 1
# Names of clients and images are in it: its owner's business.
_MODE: Final = 0o600
# Of what the history tells of a pull, what says nothing any more once it is done and has a line of its own.
_NOT_TOLD: Final = frozenset({"id", "done"})


class Audit:
    """Written behind, as the log is: nobody waits for the disk. What cannot be written is lost; the log says so."""

    def __init__(self, stream: Stream | None) -> None:
        """None: nothing is written."""
        self._outlet: Outlet | None = None
        self.reopen(stream)

    def reopen(self, stream: Stream | None) -> None:
        """From now on write there; a file that was moved away is begun anew. Blocks for a moment."""
        old, self._outlet = self._outlet, _opened(stream)
        if old is not None:
            # What waits in it is still written to where it was meant for; nobody waits for that.
            threading.Thread(target=_ended, args=(old,), name="audit").start()

    def pull(self, pull: Pull) -> None:
        """A pull is done."""
        if self._outlet is not None:
            self._write("pull", {key: value for key, value in pull.row().items() if key not in _NOT_TOLD})

    def served(self, served: Served) -> None:
        """A request has ended. An `Observer`."""
        # What has a kind was understood, and is part of a pull or asks for a list.
        if served.status == 403 and self._outlet is not None and served.kind not in ("manifests", "blobs"):
            fields = {name: getattr(served, name) for name in ("client", "user", "method", "path", "status", "why")}
            self._write("refused", fields)

    def decision(self, rule: str, decision: str, image: str, more: Mapping[str, object]) -> None:
        """A rule of the policy has decided about an image."""
        if self._outlet is not None:
            self._write("decision", {"rule": rule, "decision": decision, "image": image, **more})

    def change(self, fields: Mapping[str, object]) -> None:
        """A change was asked for on the admin port, and answered."""
        if self._outlet is not None:
            self._write("change", fields)

    def reload(self, fields: Mapping[str, object]) -> None:
        """The configuration was read again."""
        if self._outlet is not None:
            self._write("reload", fields)

    async def aclose(self) -> None:
        """Write what waits; what comes later is not told."""
        self.reopen(None)

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        assert self._outlet is not None
        stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._outlet.info(_ENCODER.encode({"timestamp": stamp, "audit": kind, **fields}))


_ENCODER: Final = json.JSONEncoder(default=str)


class _File(Outlet):
    """An outlet with a descriptor of its own."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.fd = fd


def _opened(stream: Stream | None) -> Outlet | None:
    if stream is None:
        return None
    if stream == "stdout":
        return Outlet(_STDOUT)
    try:
        return _File(os.open(stream, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _MODE))
    except OSError as error:
        structlog.get_logger().error(
            "the audit is not written: its file cannot be opened; correct log.audit or the file's owner, and reload",
            file=str(stream),
            why=error.strerror,
        )
        return None


def _ended(outlet: Outlet) -> None:
    outlet.close()
    if isinstance(outlet, _File):
        os.close(outlet.fd)
