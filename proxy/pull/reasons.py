"""Why a pull was not simply served from the disk: a short sentence each, for whoever reads the log or the page."""

from __future__ import annotations

from typing import Final

from proxy.cache.blobs import BlobStore
from proxy.cache.departures import Departure, Departures, Why
from proxy.oci.digest import Digest
from proxy.oci.figures import span_of
from proxy.oci.names import Repository, Tag
from proxy.pull.causes import ago

JOINED: Final = "a fetch of it was under way already"
DELETED: Final = "upstream has deleted the tag, and on_deleted keeps what is cached"
HELD_BACK: Final = "policy.cooldown holds back what the tag points at now, and an older digest stands in"
ASKED_ECR: Final = "upstream could not be asked, and ECR stands in"
UNREADABLE: Final = "it is on disk, but the disk does not give it out at the moment"
OTHER_SIZE: Final = "it arrives with another size than its manifest states"
TOO_LARGE: Final = "it is larger than cache.max_size"
ELSEWHERE: Final = "it is on disk, but nobody has pulled it from this repository yet"

_WENT: Final[dict[Why, str]] = {
    "evicted": "was evicted {ago} to make room",
    "damaged": "was found damaged on disk {ago}, and dropped",
    "missing": "was found to be missing from the disk {ago}",
    "purged": "was purged {ago}",
    "deleted": "was found deleted at upstream {ago}",
}


class Reasons:
    """`departures` None: nobody remembers what was here."""

    def __init__(self, store: BlobStore, departures: Departures | None = None) -> None:
        self._store = store
        self._departures = departures

    def of_tag(self, repository: Repository, tag: Tag) -> str:
        """Of a tag that is not known."""
        return self._told("the tag", self._departures.of_tag(repository, tag) if self._departures else None)

    def of_manifest(self, digest: Digest) -> str:
        """Of a manifest that its repository has not at hand."""
        if digest in self._store:
            return ELSEWHERE
        return self._told("the manifest", self._departure(digest))

    def of_blob(self, digest: Digest) -> str:
        """Of a blob that is not on disk."""
        return _missing("a blob of it", self._departure(digest))

    def deleted(self, repository: Repository, tag: Tag) -> None:
        """Upstream has said that it no longer has the tag."""
        if self._departures is not None:
            self._departures.deleted(repository, tag)

    def known_again(self, repository: Repository, tag: Tag) -> None:
        """What was remembered of the tag's departure no longer counts."""
        if self._departures is not None:
            self._departures.returned(repository, tag)

    def _departure(self, digest: Digest) -> Departure | None:
        return self._departures.of(digest) if self._departures else None

    def _told(self, what: str, departure: Departure | None) -> str:
        reason, trouble = _missing(what, departure), self._store.trouble
        return past(reason, trouble) if trouble else reason


def _missing(what: str, departure: Departure | None) -> str:
    went = _WENT[departure.why].format(ago=ago(departure.age)) if departure else "was never pulled here before"
    return f"{what} {went}"


def past(reason: str, trouble: str) -> str:
    """Of what passes by the disk, and was not there for `reason`."""
    return f"{reason}; it passes by the disk: {trouble}"


def due(age: float, ttl: float) -> str:
    """Of a tag that was checked `age` seconds ago."""
    return f"the tag was checked {ago(age)}, and tag_ttl is {span_of(ttl)}"


def confirmed(age: float, ttl: float) -> str:
    """Of one that still points where it did."""
    return f"{due(age, ttl)}: upstream has confirmed it"


def moved(age: float) -> str:
    """Of a tag that points elsewhere than `age` seconds ago."""
    return f"the tag has moved at upstream since it was checked {ago(age)}"


def stale(age: float, failure: BaseException) -> str:
    """Of a tag from `age` seconds ago that stands in."""
    why = str(failure) or "it took too long to answer"
    return f"upstream could not confirm the tag, so that what it said {ago(age)} stands in: {why}"
