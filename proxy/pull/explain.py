"""Why a pull was as it was, and what the next one would do: asked as a pull asks, but nothing is brought or changed.

Whoever reaches the admin port may ask, so upstreams are asked in bounds: `proxy.pull.questions` says how often, and
`proxy.pull.findings` when never. The sentences say how old an answer is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from proxy.oci.errors import Denied, MillpondError, Unknown, UpstreamLimited
from proxy.oci.figures import sized, span_of
from proxy.oci.names import parse_image
from proxy.pull.causes import ago, cause, next_pull
from proxy.pull.findings import DISK, Findings, Sights, Standing
from proxy.pull.questions import Questions

# Blobs with a line of their own, those that are not on disk first. The sums are of all.
MAX_BLOBS: Final = 50

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a pull depends on: `what` it is, the short `answer`, and `detail` for whoever wants to know."""

    what: str
    answer: str
    detail: str = ""


class Explainer:
    def __init__(self, sights: Sights) -> None:
        self._sights = sights
        self._questions = Questions(sights.clock)

    async def explain(self, image: str, user: str = "", *, trusted: bool) -> Row:
        """{"image" (as it was asked for), "name" (in full), "digest" or None, "cause" and "next" (a sentence each),
        "steps": [{"what", "answer", "detail"}]}.

        `user` is whom the rules of access are asked about. Upstream is asked what the next pull would ask it: at most
        once in SERVES seconds for an image, PACE bounds it for all of them, and a quota's reserve is left to clients.
        For whoever is not `trusted` it is asked only about what is in the cache.

        Raises:
            NameUnknown, NameInvalid, TagInvalid, DigestInvalid: as `parse_image`.
        """
        parsed = parse_image(image, self._sights.locate)
        found = Findings(self._sights, image, parsed, user)
        await found.gather(self._questions, trusted=trusted)
        return {
            "image": image,
            "name": found.facts.image,
            "digest": found.facts.digest,
            "cause": cause(found.facts),
            "next": next_pull(found.facts),
            "steps": [asdict(step) for step in _Steps(found).all()],
        }


class _Steps:
    """What a pull depends on, one thing after the other."""

    def __init__(self, found: Findings) -> None:
        self._found = found
        self._facts = found.facts
        self._sights = found.sights
        self._repository = found.repository

    def all(self) -> list[Step]:
        return [
            self._name(),
            self._access(),
            self._policy(),
            self._freshness(),
            self._upstream(),
            self._credentials(),
            self._quota(),
            self._disk(),
            *self._blobs(),
            *self._ecr(),
            self._last(),
        ]

    def _name(self) -> Step:
        upstream, asked_for = self._repository.upstream, self._found.asked_for.strip()
        first, slash, _ = asked_for.partition("/")
        if first == upstream:
            how = "named in full"
        elif slash and not asked_for.startswith(self._repository.path):
            how = f"{first} is an alias of {upstream}"
        else:
            how = f"a name without an upstream means {upstream} (default_upstream)"
        return Step("name", str(self._found.image), f"{how}; it is asked for as {self._repository.path} at {upstream}")

    def _access(self) -> Step:
        whose = f"user {self._found.user}" if self._found.user else "a client without a name"
        verdict = self._sights.verdict(self._found.user, self._repository, self._found.tag)
        if verdict is None:
            return Step("access", "open", "there are no rules of access: whoever is let in may pull it")
        other = "; for another user it may differ" if verdict.depends else ""
        if verdict.allowed:
            return Step("access", "allowed", f"for {whose}{other}")
        return Step("access", "denied", f"for {whose}: {verdict.why}{other}")

    def _policy(self) -> Step:
        facts = self._facts
        if facts.refused:
            return Step("policy", "refused", facts.refused)
        if facts.stands_in:
            return Step(
                "policy", "held back", f"the tag's newest digest is too new; {facts.stands_in} stands in for it"
            )
        return Step("policy", "no objection" if self._sights.policy() else "no rules")

    def _freshness(self) -> Step:
        facts = self._facts
        if self._found.tag is None:
            return Step("freshness", "for ever", "a digest never changes, and needs no upstream once it is on disk")
        if not facts.here or facts.checked is None:
            return Step("freshness", "not cached", "upstream is asked where the tag points")
        policy = self._sights.policies[facts.upstream]
        compared = f"compared {ago(facts.now - facts.checked)}; tag_ttl is {span_of(policy.ttl)}"
        if facts.fresh:
            return Step(
                "freshness",
                "fresh",
                f"{compared}: upstream is not asked for another " + span_of(facts.checked + policy.ttl - facts.now),
            )
        until = ago(facts.now - facts.checked - policy.ttl - policy.stale_for)
        stale = f"may stand in for an upstream that fails until {until}" if facts.usable else "is too old to stand in"
        return Step("freshness", "due", f"{compared}; it {stale}")

    def _upstream(self) -> Step:
        facts, health = self._facts, self._found.registry.health
        if facts.error is not None:
            return Step("upstream", _kind(facts.error), f"{facts.error}{facts.when or ' (just now)'}")
        if facts.asked is not None:
            said = f"it says that the tag points at {facts.answer}" if facts.answer else "it has what is asked for"
            return Step("upstream", "ok", f"{said}{facts.when or ' (just now)'}")
        if facts.unasked:
            return Step("upstream", health.state, f"not asked now: {facts.unasked}")
        return Step("upstream", health.state, health.why or "the next pull need not ask it for anything")

    def _credentials(self) -> Step:
        identity, tokens = self._found.registry.identity, self._found.registry.uses_tokens
        kind = "; upstream gives out bearer tokens, one for each repository" if tokens else ""
        return Step("credentials", identity, _IDENTITIES[identity] + kind)

    def _quota(self) -> Step:
        limit = self._found.registry.rate_limit
        if limit is None or limit.remaining is None:
            return Step("rate limit", "not told", f"upstream {self._facts.upstream} has said nothing of one")
        of = f" of {limit.limit}" if limit.limit is not None else ""
        window = f" within {span_of(limit.window)}" if limit.window else ""
        return Step("rate limit", f"{limit.remaining}{of} left", f"pulls{window}, as upstream said last")

    def _disk(self) -> Step:
        facts = self._facts
        if facts.disk:
            return Step("disk", "off", facts.disk)
        if not facts.blobs:
            return Step("disk", "nothing" if not facts.here else "whole", facts.gone)
        whole = "whole" if not facts.missing else f"{facts.blobs - facts.missing} of {facts.blobs} blobs"
        other = (
            f"{self._found.content.unpulled} images of the index are not on disk; "
            if self._found.content.unpulled
            else ""
        )
        missing = f"{sized(facts.missing_bytes)} missing" if facts.missing else "nothing missing of what was pulled"
        return Step("disk", whole, f"{other}{missing}" + (f": {facts.gone}" if facts.gone else ""))

    def _blobs(self) -> list[Step]:
        places = sorted(self._found.content.places.items(), key=lambda item: item[1][0] == DISK)
        return [Step(f"blob {digest}", place, sized(size)) for digest, (place, size) in places[:MAX_BLOBS]]

    def _ecr(self) -> list[Step]:
        return [_standing(each) for each in self._found.standings]

    def _last(self) -> Step:
        last = self._facts.last
        if last is None:
            return Step("last pull", "none", "none is in the history")
        when = ago(self._facts.now - last["at"])
        why = f": {last['why']}" if last["why"] else ""
        return Step(
            "last pull", last["outcome"], f"{when} by {last['client']}, from {last['source'] or 'nowhere'}{why}"
        )


def _standing(each: Standing) -> Step:
    job = each.job
    answer = "not pushed" if job is None else {"done": "held", "rejected": "refused"}.get(job.state, job.state)
    due = f"; next try {ago(-job.next_try)}" if job is not None and job.next_try else ""
    note = each.trouble or (job.note if job else "") or each.target.registry
    return Step(f"ecr {each.target.name}", answer, note + due)


_IDENTITIES: Final[Mapping[str, str]] = {
    "anonymous": "no credentials are configured",
    "password": "a user name and a password are configured",
    "aws": "Millpond logs in with AWS credentials",
}


def _kind(error: MillpondError) -> str:
    """In a word, how upstream answered a question about an image."""
    match error:
        case Unknown():
            return "does not have it"
        case Denied():
            return "refuses"
        case UpstreamLimited():
            return "limits"
    return "fails"
