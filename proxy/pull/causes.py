"""What was found out about an image, and the two sentences that it comes to: why, and what now.

The first thing in the way of a pull is the cause; what is behind it shows once that is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, MillpondError, Unknown, UpstreamLimited
from proxy.oci.figures import sized, span_of

# A pull that went wrong longer ago explains nothing any more.
_RECENT: Final = 86_400.0
# Of somebody else's words, in characters.
_MAX_WORDS: Final = 400


@dataclass(slots=True)
class Facts:
    """Times are in seconds, sizes in bytes; an empty text is no trouble of that kind."""

    image: str
    upstream: str
    now: float
    denied: str = ""  # by the rules of access
    refused: str = ""  # by the policy
    stands_in: Digest | None = None  # what the policy has served for the tag meanwhile
    by_tag: bool = False
    digest: Digest | None = None  # what it is, as far as the cache knows
    here: bool = False  # its manifest is on disk
    checked: float | None = None  # when the tag was last compared with upstream
    ttl: float = 0.0
    fresh: bool = False  # the tag need not be compared
    usable: bool = False  # the tag may stand in for an upstream that fails
    keeps_deleted: bool = False
    unasked: str = ""  # why upstream is not asked what the next pull would ask it
    asked: float | None = None  # it has been asked that, so many seconds ago, and
    answer: Digest | None = None  # said that the tag points there, or
    error: MillpondError | None = None  # failed so
    exhausted: str = ""  # upstream's quota
    blobs: int = 0
    missing: int = 0  # blobs that are not on disk
    missing_bytes: int = 0
    arriving: int = 0  # of the missing ones
    sources: str = ""  # where the missing ones come from
    copied: str = ""  # the ECR target that may stand in for upstream
    gone: str = ""  # why something is not on disk that was
    disk: str = ""
    ecr: dict[str, str] = field(default_factory=dict)  # trouble by target
    last: Mapping[str, Any] | None = None  # the newest pull, a row of the history

    @property
    def when(self) -> str:
        """` (asked 3 s ago)`, where its word is not of this very moment."""
        return f" (asked {ago(self.asked)})" if self.asked is not None and self.asked >= 1 else ""

    @property
    def moved(self) -> bool:
        return self.answer is not None and self.digest is not None and self.answer != self.digest

    @property
    def due(self) -> bool:
        """The tag is known, and has to be compared."""
        return self.by_tag and self.here and not self.fresh


def cause(facts: Facts) -> str:
    """Why it is as it is, in one sentence."""
    return next(sentence for tell in _CAUSES if (sentence := tell(facts)))


def next_pull(facts: Facts) -> str:
    """What the next pull would do, in one sentence."""
    if facts.denied or facts.refused:
        return "It is refused with 403, and nobody is asked for anything."
    if facts.error is not None:
        return _after(facts, facts.error)
    bring = _bringing(facts)
    if facts.stands_in is not None:
        return f"It is served {facts.stands_in}, which the tag pointed at before."
    if facts.moved:
        return f"It follows the tag to {facts.answer}, and brings of that what is not on disk."
    if not facts.here:
        return f"It asks upstream {facts.upstream} for the manifest, and then for what that names."
    if facts.due:
        return f"It compares the tag with upstream {facts.upstream} by HEAD; if it is where it was, {bring}."
    return f"{bring[0].upper()}{bring[1:]}."


def first_sentence(text: str) -> str:
    """Of a message that may go on with advice; without the full stop."""
    return text[:_MAX_WORDS].partition(". ")[0].rstrip(".")


def ago(seconds: float) -> str:
    """`5 min ago`, `in 3 h`: what a person needs to know of it."""
    span = span_of(abs(seconds))
    return f"{span} ago" if seconds >= 0 else f"in {span}"


def _access(facts: Facts) -> str:
    return facts.denied and f"The rules of access deny it: {first_sentence(facts.denied)}."


def _policy(facts: Facts) -> str:
    return facts.refused and f"The policy refuses it: {first_sentence(facts.refused)}."


def _upstream(facts: Facts) -> str:
    error = facts.error
    if error is None:
        return ""
    said = first_sentence(str(error)) + facts.when
    if isinstance(error, Unknown):
        if facts.checked is not None and facts.digest is not None:
            when = ago(facts.now - facts.checked)
            return f"The tag is deleted at upstream {facts.upstream}, which still had it {when}: {said}."
        if facts.by_tag and facts.gone:
            return f"The tag is deleted at upstream {facts.upstream}, which had it when it was pulled before: {said}."
        return f"Upstream {facts.upstream} does not have it: {said}."
    if isinstance(error, Denied):
        return f"Upstream {facts.upstream} refuses Millpond: {said}."
    what = "limits Millpond" if isinstance(error, UpstreamLimited) else "is down or fails"
    return f"Upstream {facts.upstream} {what}: {said}."


def _quota(facts: Facts) -> str:
    needs = not facts.here or facts.moved
    return f"Upstream {facts.upstream} limits Millpond: {facts.exhausted}." if needs and facts.exhausted else ""


def _disk(facts: Facts) -> str:
    return facts.disk and f"The disk cache takes nothing new, so pulls pass it by: {first_sentence(facts.disk)}."


def _gone(facts: Facts) -> str:
    return facts.gone and f"Not all of it is on disk any more: {first_sentence(facts.gone)}."


def _went_wrong(facts: Facts) -> str:
    last = facts.last
    if last is None or facts.now - last["at"] > _RECENT or last["outcome"] in ("complete", "pulling"):
        return ""
    when, why = ago(facts.now - last["at"]), first_sentence(last["why"]) or f"status {last['status']}"
    how = {"client left": "ended before its last byte"}.get(last["outcome"], "failed")
    return f"The last pull, {when} by {last['client']}, {how}: {why}."


def _ecr(facts: Facts) -> str:
    return "".join(
        f"ECR target {name} has trouble: {first_sentence(why)}." for name, why in list(facts.ecr.items())[:1]
    )


def _held(facts: Facts) -> str:
    return "The policy holds its newest digest back, until that is old enough." if facts.stands_in else ""


def _moved(facts: Facts) -> str:
    return f"The tag has moved upstream, from {facts.digest} to {facts.answer}{facts.when}." if facts.moved else ""


def _absent(facts: Facts) -> str:
    if facts.here:
        return ""
    return "It is not on disk, for it was not pulled through this Millpond before."


def _older(facts: Facts) -> str:
    if not facts.due or facts.checked is None:
        return ""
    if facts.checked > facts.now:
        return "The tag was compared with upstream under a clock that was ahead, so it is compared again."
    return (
        f"The tag was compared with upstream {ago(facts.now - facts.checked)}, longer ago than tag_ttl "
        f"({span_of(facts.ttl)}) allows."
    )


def _incomplete(facts: Facts) -> str:
    if not facts.missing:
        return ""
    return f"Not all of it is on disk: nobody has pulled {facts.missing} of its {facts.blobs} blobs here before."


def _not_from_disk(facts: Facts) -> str:
    last = facts.last
    if last is None or not last["why"]:
        return ""
    when, why = ago(facts.now - last["at"]), first_sentence(last["why"])
    if last["source"] == "hit":
        return f"All of it is on disk; the last pull, {when}, had upstream asked before it was served: {why}."
    return f"All of it is on disk now; the last pull, {when}, was not served from there: {why}."


def _well(_: Facts) -> str:
    return "All is well: it is on disk, and nobody has to be asked for anything."


_CAUSES: Final[tuple[Callable[[Facts], str], ...]] = (
    _access,
    _policy,
    _upstream,
    _quota,
    _disk,
    _gone,
    _went_wrong,
    _ecr,
    _held,
    _moved,
    _absent,
    _older,
    _incomplete,
    _not_from_disk,
    _well,
)


def _after(facts: Facts, error: MillpondError) -> str:
    """What a pull does that upstream fails like this."""
    if (not facts.by_tag and facts.here) or facts.fresh:
        return f"What is on disk is served; the {facts.missing} missing blobs are not to be had, so the pull fails."
    if isinstance(error, Unknown):
        if facts.keeps_deleted and facts.here:
            return "It is served as it was, since upstreams.*.on_deleted says so."
        return "It is told 404, as upstream says."
    if isinstance(error, Denied):
        return "It is told 403, as upstream says."
    if facts.usable:
        return "It is served from the cache, marked as stale, as the tag was when it was compared last."
    if facts.copied:
        return f"ECR target {facts.copied} is asked instead; if that has no copy, the pull fails."
    status = "429" if isinstance(error, UpstreamLimited) else "502 or 504"
    return f"It is told {status}, and its client tries again or goes elsewhere: nothing is cached that could stand in."


def _bringing(facts: Facts) -> str:
    if not facts.missing:
        return "all of it is served from disk"
    size = sized(facts.missing_bytes)
    if facts.arriving == facts.missing:
        return f"it joins the flights that bring its last {facts.missing} blobs ({size})"
    kept = ", past the disk" if facts.disk else ""
    return (
        f"of its {facts.blobs} blobs {facts.blobs - facts.missing} are served from disk, and {facts.missing} ({size}) "
        f"are fetched from {facts.sources}{kept}"
    )
