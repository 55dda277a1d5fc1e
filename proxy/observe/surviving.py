"""Work behind the serving that fails is said, and begun again: it must never take the serving down with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

# What failed by a disk, or by a defect of ours, is tried again after this: soon, but without filling the log.
AGAIN_SECONDS: Final = 60.0


async def surviving(work: Callable[[], Awaitable[None]], what: str) -> None:
    """Run `work` until it ends by itself or is cancelled. `what` names it in the log."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001  whatever it is, the clients shall not notice
            structlog.get_logger().exception("work failed, and will be begun again", what=what, seconds=AGAIN_SECONDS)
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            return
