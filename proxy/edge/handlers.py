"""One handler a noun: from a parsed request to a response."""

from __future__ import annotations

import json
from functools import lru_cache, partial
from typing import Final
from urllib.parse import urlencode

from starlette.responses import Response

from proxy.edge.request import Request
from proxy.edge.respond import BlobResponse, ManifestResponse, content_headers, not_modified
from proxy.oci.digest import Digest
from proxy.oci.errors import PageInvalid
from proxy.oci.manifest import OCI_INDEX
from proxy.oci.names import Repository, parse_reference
from proxy.oci.ranges import parse_range
from proxy.pull.blobs import Blobs
from proxy.pull.listings import Listings, Names
from proxy.pull.manifests import Manifests

# A page of names, by default and at most (CVE-2023-2253: the client's number is no licence to allocate).
_PAGE: Final = 1000
# What a fleet asks for again and again; each is short, for what is none is not kept.
_reference = lru_cache(4096)(parse_reference)


class Handlers:
    """What each noun of the registry API answers. `repository` is the route's, where the noun has one."""

    def __init__(self, manifests: Manifests, blobs: Blobs, listings: Listings) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._listings = listings

    async def ping(self, _: Request) -> Response:
        return Response("{}", media_type="application/json")

    async def manifest(self, request: Request, repository: Repository) -> Response:
        reference = _reference(request.route.item)
        answer = await self._manifests.serve(repository, reference, request.extra_types())
        request.served.confirmed, request.served.reason = answer.confirmed, answer.reason
        request.tell(answer.origin, answer.manifest.digest)
        if not_modified(request.headers.get("if-none-match"), answer.manifest.digest):
            return Response(status_code=304, headers=content_headers(answer.manifest.digest, answer.origin))
        return ManifestResponse(answer.manifest, answer.origin)

    async def blob(self, request: Request, repository: Repository) -> Response:
        digest = Digest.parse(request.route.item)
        unmodified = not_modified(request.headers.get("if-none-match"), digest)
        if request.head or unmodified:
            size, origin, request.served.reason = await self._blobs.size(repository, digest)
            request.tell(origin, digest)
            headers = content_headers(digest, origin) | {"Accept-Ranges": "bytes"}
            if unmodified:
                return Response(status_code=304, headers=headers)
            headers |= {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
            return Response(headers=headers)
        blob = await self._blobs.open(repository, digest)
        request.served.reason = blob.reason
        try:
            # A range of something else (If-Range) is answered with the whole.
            if_range = request.headers.get("if-range")
            header = request.headers.get("range") if if_range in (None, f'"{digest}"') else None
            wanted = parse_range(header, blob.size)
        except BaseException:
            blob.close()
            raise
        request.tell(blob.origin, digest)
        return BlobResponse(blob, wanted, content_headers(digest, blob.origin) | {"Accept-Ranges": "bytes"})

    async def tags(self, request: Request, repository: Repository) -> Response:
        limit = _limit(request)
        page = Names((), more=False, origin="hit")
        if limit:
            shown = partial(request.may_pull, repository) if request.may_pull else None
            page = await self._listings.tags(repository, limit, request.route.query.get("last"), shown)
        return _page(request, page, limit, {"name": repository.path, "tags": page.names})

    async def referrers(self, request: Request, repository: Repository) -> Response:
        digest = Digest.parse(request.route.item)
        answer = await self._listings.referrers(repository, digest)
        request.tell(answer.origin)
        headers: dict[str, str] = {"X-Millpond": answer.origin, "Content-Type": OCI_INDEX}
        body = answer.manifest.body
        if wanted := request.route.query.get("artifactType"):
            index = json.loads(body)
            index["manifests"] = [found for found in index["manifests"] if found.get("artifactType") == wanted]
            body = json.dumps(index).encode()
            headers["OCI-Filters-Applied"] = "artifactType"
        return Response(body, headers=headers)

    async def catalog(self, request: Request) -> Response:
        limit = _limit(request)
        may_pull = request.may_pull
        shown = (lambda repository: may_pull(repository, None)) if may_pull else None
        page = await self._listings.repositories(request.route.upstream, limit, request.route.query.get("last"), shown)
        return _page(request, page, limit, {"repositories": page.names})


def _limit(request: Request) -> int:
    text = request.route.query.get("n")
    if text is None:
        return _PAGE
    if not text.isascii() or not text.isdigit():
        raise PageInvalid(f"n={text[:50]!r} is not a number of entries: expected 0 or more")
    # Judged by its length first: turning a number of a million digits into an integer is work for nothing.
    return _PAGE if len(text) > len(str(_PAGE)) else min(int(text), _PAGE)


def _page(request: Request, page: Names, limit: int, body: dict[str, object]) -> Response:
    request.tell(page.origin)
    headers: dict[str, str] = {"X-Millpond": page.origin}
    if page.more and page.names:
        query = {"n": str(limit), "last": page.names[-1]} | ({"ns": request.route.ns} if request.route.ns else {})
        headers["Link"] = f'<{request.served.path}?{urlencode(query)}>; rel="next"'
    return Response(json.dumps(body), headers=headers, media_type="application/json")
