"""Which images the cache has: asked of the server, or read in the directory while none runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from proxy.cli.admin_api import AdminApi
from proxy.cli.directory import directory_or_server
from proxy.edge.routes import Namespace
from proxy.oci.names import Repository
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.cache.disk import DiskCache

Row = Mapping[str, Any]

_PAGE: Final = 200  # images in one answer


def cached_images(settings: Settings, pattern: str = "") -> list[Row]:
    """Images whose name:tag@digest has `pattern` in it, or fits it as a glob. Rows as those of GET /api/v1/images.

    Raises:
        ApiError: there is neither a directory to read nor a server to ask.
    """

    async def in_directory(cache: DiskCache) -> list[Row]:
        from proxy.pull.images import Images  # noqa: PLC0415 - as in `serve`: `--version` is to be quick

        images, found = Images(cache, locate_in(settings)), list[Row]()
        page = await images.search(pattern, _PAGE)
        found += page["images"]
        while page["next"]:
            page = await images.search(pattern, _PAGE, page["next"])
            found += page["images"]
        return found

    def by_server(api: AdminApi) -> list[Row]:
        asked, found = {"q": pattern, "limit": _PAGE}, list[Row]()
        page = api.get("/api/v1/images", asked)
        found += page["images"]
        while page["next"]:
            page = api.get("/api/v1/images", {**asked, "after": page["next"]})
            found += page["images"]
        return found

    return directory_or_server(settings, in_directory, by_server)


def locate_in(settings: Settings) -> Callable[[str], Repository]:
    """What a repository's name means with these upstreams."""
    return Namespace(settings.names, settings.default_upstream).named


def full_name(row: Row) -> str:
    """As a person names it: by its tag, else by its digest."""
    return f"{row['name']}:{row['tag']}" if row["tag"] else f"{row['name']}@{row['digest']}"
