"""Lists that upstream pages: the tags of a repository, the referrers of a manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from proxy.oci.digest import Digest
from proxy.oci.errors import TagInvalid, UpstreamInvalid
from proxy.oci.manifest import MAX_DESCRIPTORS, MAX_MANIFEST, OCI_INDEX
from proxy.oci.names import Tag
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.failures import refusal
from proxy.upstream.guard import Guard, Target
from proxy.upstream.transport import Reply
from proxy.upstream.walk import Walker

# A client's n reaches upstream no larger than this (CVE-2023-2253).
MAX_TAGS: Final = 1000
# Ten thousand tags of full length, for registries that ignore n.
MAX_TAGS_BODY: Final = 2 * 1024 * 1024
# Characters of a Link header: half of the longest URL that is followed, so that what is looked at is followed too.
MAX_LINK: Final = 8 * 1024
# Pages of referrers that are merged into one; a hundred signatures fill one or two.
MAX_PAGES: Final = 20

_NEXT: Final = re.compile(r'<([^<>]*)>[^<>,]*;\s*rel="?next"?(?=[\s;,]|\Z)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags in upstream's order; `more` when another page follows the last of them."""

    tags: tuple[str, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Referrers:
    """An OCI index of what refers to a manifest; `filtered` when upstream has applied artifactType."""

    body: bytes
    filtered: bool


class Lists:
    """Asks for lists, bounded in pages, entries and bytes."""

    def __init__(self, endpoint: Endpoint, guard: Guard, walker: Walker) -> None:
        self._endpoint = endpoint
        self._guard = guard
        self._walker = walker

    async def tags(self, path: str, n: int | None, last: str | None) -> TagPage:
        wanted = MAX_TAGS if n is None else min(max(n, 0), MAX_TAGS)
        # No n means upstream's own page; n=0 is refused by some, so one is asked for and none passed on.
        query = [("n", str(max(wanted, 1)))] if n is not None else []
        query += [("last", last)] if last is not None else []
        target = self._guard.api(f"/v2/{path}/tags/list" + (f"?{urlencode(query)}" if query else ""))
        reply, _, document = await self._get(target, path, "tags", "application/json", MAX_TAGS_BODY)
        entries = document.get("tags")
        if not isinstance(entries, list | None):
            raise self._nonsense("tags", path)
        found = [entry for entry in entries or () if _is_tag(entry)]  # null where there are none
        if len(found) > wanted or last in found:
            # It ignores n, or last as distribution 2.8 does, then perhaps the order too. What comes before last is no
            # sign of that: GHCR lists in the order of time.
            found = sorted(tag for tag in found if last is None or tag > last)
        more = wanted > 0 and (next_page(reply.headers("link")) is not None or len(found) > wanted)
        return TagPage(tuple(found[:wanted]), more)

    async def referrers(self, path: str, digest: Digest, artifact_type: str | None) -> Referrers:
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        target = self._guard.api(f"/v2/{path}/referrers/{digest}{query}")
        body = b""
        merged: dict[str, Any] = {}
        filtered = artifact_type is not None
        for _ in range(MAX_PAGES):
            reply, raw, page = await self._get(target, path, "referrers", OCI_INDEX, MAX_MANIFEST - len(body))
            entries = page.get("manifests")
            if not isinstance(entries, list) or page.get("schemaVersion") != 2:
                raise self._nonsense("referrers", path)
            applied = ",".join(reply.headers("oci-filters-applied"))
            filtered = filtered and "artifactType" in {part.strip() for part in applied.split(",")}
            if merged:
                merged["manifests"] += entries
                body = json.dumps(merged, separators=(",", ":")).encode()
            else:
                merged, body = page, raw  # a single page stays as it came
            if len(merged["manifests"]) > MAX_DESCRIPTORS:
                raise UpstreamInvalid(f"upstream {self._endpoint.name} lists more than {MAX_DESCRIPTORS} referrers")
            link = next_page(reply.headers("link"))
            if link is None:
                return Referrers(body, filtered)
            target = self._guard.page(target, link)
        raise UpstreamInvalid(f"upstream {self._endpoint.name} lists referrers on more than {MAX_PAGES} pages")

    async def _get(
        self, target: Target, path: str, noun: str, accept: str, limit: int
    ) -> tuple[Reply, bytes, dict[str, Any]]:
        reply, body = await self._walker.load(target, path, {"Accept": accept}, noun, limit)
        if reply.status != 200:
            raise await refusal(reply, self._endpoint, noun, path)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise self._nonsense(noun, path) from None
        if not isinstance(document, dict):
            raise self._nonsense(noun, path)
        return reply, body, document

    def _nonsense(self, noun: str, path: str) -> UpstreamInvalid:
        return UpstreamInvalid(
            f"upstream {self._endpoint.name} answered something that is no list of {noun} for {path}"
        )


def next_page(lines: Sequence[str]) -> str | None:
    """Where the lines of a Link header say that the next page is, as it stands there; None without one."""
    match = _NEXT.search(",".join(lines)[:MAX_LINK])
    return match.group(1) if match else None


def _is_tag(entry: object) -> bool:
    try:
        return isinstance(entry, str) and bool(Tag.parse(entry))
    except TagInvalid:
        return False
