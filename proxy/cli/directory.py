"""The cache directory itself, for what is asked of it while no server runs on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from proxy.cli.admin_api import AdminApi, ApiError, Refused, admin_api
from proxy.observe import logs
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.cache.disk import DiskCache

T = TypeVar("T")


class NotHere(Exception):
    """The directory is not for us to open: a server may be asked instead."""


@asynccontextmanager
async def opened(settings: Settings, *, make: bool = False) -> AsyncIterator[DiskCache]:
    """The cache, its directory locked; with `make` that is made where it is missing. What it logs is not shown.

    Raises:
        NotHere: it is missing, another's, or cannot be used.
    """
    from proxy.cache.disk import DiskCache  # noqa: PLC0415 - as in `serve`: `--version` is to be quick
    from proxy.cache.lock import DirectoryInUse  # noqa: PLC0415
    from proxy.observe.metrics import Metrics  # noqa: PLC0415

    directory = settings.cache.directory
    if not make and not directory.is_dir():
        raise NotHere(f"{directory}, which is cache.directory, is not there")
    logs.configure(settings.log.format, "critical")  # a line of it would tear tables and bars apart
    try:
        cache = DiskCache(
            directory,
            max_size=settings.cache.max_size.resolve,
            min_free=settings.cache.min_free.resolve,
            metrics=Metrics(),
            clock=time.time,
        )
    except DirectoryInUse:
        raise NotHere(f"{directory}, which is cache.directory, is another millpond process's") from None
    try:
        if cache.blobs.unusable:
            raise NotHere(cache.blobs.unusable)
        yield cache
    finally:
        await cache.close()


@contextmanager
def asked_instead(settings: Settings, reason: NotHere) -> Iterator[AdminApi]:
    """The server, where the directory is not ours for this `reason`. Where none answers either, both are said."""
    try:
        yield admin_api(settings)
    except Refused:
        raise
    except ApiError as error:
        raise ApiError(f"{reason}; and {error}") from None


def directory_or_server(
    settings: Settings, in_directory: Callable[[DiskCache], Awaitable[T]], by_server: Callable[[AdminApi], T]
) -> T:
    """What `in_directory` gives where the directory is free, else what `by_server` does.

    Raises:
        ApiError: there is neither a directory to open nor a server to ask.
    """

    async def open_it() -> T:
        async with opened(settings) as cache:
            return await in_directory(cache)

    try:
        return asyncio.run(open_it())
    except NotHere as reason:
        with asked_instead(settings, reason) as api:
            return by_server(api)
