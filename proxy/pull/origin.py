"""Where an answer came from, in the words of the X-Millpond header."""

from __future__ import annotations

from typing import Literal

Tier = Literal["ecr", "upstream"]
"""Who gave something that was not here."""
Origin = Literal["hit", "joined", "stale"] | Tier
"""Where a client's answer came from."""
