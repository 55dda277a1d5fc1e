"""Every target, by name."""

from __future__ import annotations

from typing import Final

from tests.fuzz.clients import CLIENTS
from tests.fuzz.records import RECORDS
from tests.fuzz.target import Target
from tests.fuzz.upstreams import UPSTREAMS

TARGETS: Final[dict[str, Target]] = {target.name: target for target in (*CLIENTS, *UPSTREAMS, *RECORDS)}
