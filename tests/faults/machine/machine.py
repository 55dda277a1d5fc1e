"""The machine's rules: what clients, upstreams, disks and operators do, and what has to hold after each of it."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, Literal, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.faults.machine import content
from tests.faults.machine.books import How
from tests.faults.machine.clients import Client, judge_head, judge_stranger
from tests.faults.machine.content import BLOBS, ELSEWHERE, MANIFESTS, PARTS, REPOSITORY, TAGS
from tests.faults.machine.pond import UPSTREAM
from tests.faults.machine.troubles import HONEST, LIES, TROUBLES
from tests.faults.machine.world import STEP, Event, Held, Ranged, World, header

_ALL: Final = ("/blobs/", "/manifests/", "/v2/library/")

Meanwhile = Literal["nothing", "ledger lost", "ledger spoilt", "litter", "damage"]

blobs = st.sampled_from(sorted(BLOBS))
names = st.lists(blobs, min_size=1, max_size=3)
crowds = st.integers(1, 4)
parts = st.sampled_from(sorted(PARTS))
shares = st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999])
kinds = st.sampled_from(["from", "inner", "last", "beyond"])
ranges = st.none() | st.tuples(kinds, shares, shares)
slots = st.integers(0, 2)
troubles = st.sampled_from(sorted(HONEST)) | st.sampled_from(sorted(LIES)) | st.sampled_from(sorted(TROUBLES))


_Rule = TypeVar("_Rule", bound=Callable[..., None])


class TimeIsUp(KeyboardInterrupt):
    """Not a failure: no further case is begun. What interrupts Hypothesis in order is this kind of exception only."""


def step(work: _Rule) -> _Rule:
    """Note what is done and how long it takes, H; and show it all beside whatever goes wrong."""

    @functools.wraps(work)
    def noted(self: PondMachine, **arguments: Any) -> None:
        began = time.monotonic()
        self.note(f"{work.__name__}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})")
        self.counted[work.__name__] += 1
        with self.explained():
            work(self, **arguments)
            took = time.monotonic() - began
            self.counted[f"milliseconds of {work.__name__}"] += int(1000 * took)
            assert took < STEP, f"H: {work.__name__} took {took:.0f} s"

    return noted  # type: ignore[return-value]


class PondMachine(World, RuleBasedStateMachine):
    """One case, as Hypothesis makes it up."""

    deadline: ClassVar[float] = float("inf")  # on the monotonic clock: no case is begun after it

    def __init__(self) -> None:
        if time.monotonic() > self.deadline:
            raise TimeIsUp
        super().__init__()

    # What clients do

    @rule(name=blobs, wanted=ranges)
    @step
    def pull(self, name: str, wanted: Ranged | None) -> None:
        self.recent.append(name)
        self._pull(BLOBS[name], header(BLOBS[name], wanted), self.expected)

    @rule(name=blobs)
    @step
    def head(self, name: str) -> None:
        got = Client(self.pond.port, self.path(BLOBS[name]), method="HEAD").finish()
        self._note_outcome(got)
        judge_head(BLOBS[name], got, self.expected)

    @rule(name=st.sampled_from(sorted(MANIFESTS)))
    @step
    def pull_manifest(self, name: str) -> None:
        self._pull_manifest(MANIFESTS[name], self.expected)

    @rule(tag=st.sampled_from(sorted(TAGS)))
    @step
    def pull_tag(self, tag: str) -> None:
        self._pull_tag(tag, self.expected)

    @rule(name=st.sampled_from(sorted(MANIFESTS)), clients=st.integers(1, 3))
    @step
    def pull_image(self, name: str, clients: int) -> None:
        """Everything of it, as nodes that start together do: manifests first, then blobs at once."""
        self.recent.extend(part.name for part in content.blobs_of(name) if part.name in BLOBS)
        expected = self.expected

        def node(_: int) -> None:
            for manifest in (MANIFESTS[name], *content.manifests_of(name)):
                self._pull_manifest(manifest, expected)
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(lambda part: self._pull(part, None, expected), content.blobs_of(name)))

        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(node, range(clients)))

    @rule(name=blobs, wanted=ranges, share=shares)
    @step
    def leave(self, name: str, wanted: Ranged | None, share: float) -> None:
        """A client that goes when it has so much of the blob."""
        part = BLOBS[name]
        client = Client(self.pond.port, self.path(part), wanted=header(part, wanted))
        read = int(part.size * share)
        client.read(read)
        self.judge(part, client.wanted, client.leave(), self.expected, read=read)

    @rule(slot=slots, name=blobs, wanted=ranges, share=shares)
    @step
    def hold(self, slot: int, name: str, wanted: Ranged | None, share: float) -> None:
        """A client that takes a part, and then takes its time; whoever held the place before goes."""
        self._let_go(slot)
        self.held[slot] = held = Held(self, BLOBS[name], header(BLOBS[name], wanted))
        held.client.read(int(held.part.size * share))

    @precondition(lambda self: self.held)
    @rule(slot=slots, share=shares)
    @step
    def go_on(self, slot: int, share: float) -> None:
        """To the end of it, where the share is none."""
        slot = sorted(self.held)[slot % len(self.held)]
        held = self.held[slot]
        if share:
            held.client.read(int(held.part.size * share))
        else:
            del self.held[slot]
            self.judge(held.part, held.client.wanted, held.client.finish(), held.expected)

    @rule(name=blobs)
    @step
    def ask_elsewhere(self, name: str) -> None:
        """S: through a repository that does not hold it."""
        path = f"/v2/{UPSTREAM}/{ELSEWHERE}/blobs/{BLOBS[name].digest}"
        got = Client(self.pond.port, path).finish()
        self._note_outcome(got)
        judge_stranger(got, self.expected)

    @rule(names=names, clients=crowds, event=st.sampled_from(("nothing", "outage", "delete")), share=shares)
    @step
    def storm(self, names: list[str], clients: int, event: Event, share: float) -> None:
        self._storm(names, clients, event, share)

    @rule(names=names, clients=crowds, killed=st.booleans(), share=shares)
    @step
    def storm_and_end(self, names: list[str], clients: int, killed: bool, share: float) -> None:
        self._storm(names, clients, "kill" if killed else "terminate", share)

    @precondition(lambda self: self.pond.mounted)
    @rule(names=names, clients=crowds, share=shares)
    @step
    def storm_and_full_disk(self, names: list[str], clients: int, share: float) -> None:
        self.pond.free_disk()
        self._storm(names, clients, "full disk", share)
        self.pond.free_disk()

    # What upstream does

    @rule(trouble=troubles, where=parts | st.sampled_from(_ALL), share=shares, times=slots)
    @step
    def trouble(self, trouble: str, where: str, share: float, times: int) -> None:
        """From now on, for one thing or for all of a kind; 0 times is for ever."""
        self._trouble(trouble, PARTS[where].digest if where in PARTS else where, share, times)

    @rule(trouble=troubles, name=blobs, share=shares, times=slots, wanted=ranges)
    @step
    def pull_in_trouble(self, trouble: str, name: str, share: float, times: int, wanted: Ranged | None) -> None:
        self._trouble(trouble, BLOBS[name].digest, share, times)
        self._pull(BLOBS[name], header(BLOBS[name], wanted), self.expected)

    @precondition(lambda self: self.reachable)
    @rule()
    @step
    def outage(self) -> None:
        self._outage()

    @precondition(lambda self: not self.calm)
    @rule()
    @step
    def recover(self) -> None:
        self._recover()

    @rule(tag=st.sampled_from(sorted(TAGS)), name=st.sampled_from(sorted(MANIFESTS)))
    @step
    def move_tag(self, tag: str, name: str) -> None:
        self.pointed[tag].append(name)
        part = MANIFESTS[name]
        self.upstream.add_manifest(REPOSITORY, part.content, part.media_type, tag)

    # What the disk and its operator do

    @precondition(lambda self: self.recent)
    @rule(which=slots, how=st.sampled_from(How.__args__), share=shares, again=st.booleans())  # type: ignore[attr-defined]
    @step
    def damage(self, which: int, how: How, share: float, again: bool) -> None:
        """A blob that was asked for lately, and may be here; `again`: it is asked for once more."""
        part = BLOBS[list(self.recent)[which % len(self.recent)]]
        self.note(f"  {part.name}")
        self._damage(part, how, share)
        if again:
            self._pull(part, None, self.expected)

    @precondition(lambda self: self.pond.mounted)
    @rule(full=st.booleans())
    @step
    def disk(self, full: bool) -> None:
        if full:
            self.pond.fill_disk()
        else:
            self.pond.free_disk()

    @rule(
        killed=st.booleans(),
        meanwhile=st.sampled_from(Meanwhile.__args__),  # type: ignore[attr-defined]
        name=parts,
        swept=st.booleans(),
    )
    @step
    def restart(self, killed: bool, meanwhile: Meanwhile, name: str, swept: bool) -> None:
        self._disturbed()
        whole = self.pond.end(killed=killed)
        match meanwhile:
            case "ledger lost":
                self.pond.lose_ledger()
            case "ledger spoilt":
                self.pond.spoil_ledger()
            case "litter":
                self.pond.litter(PARTS[name])
            case "damage":
                self._damage(PARTS[name], "flip", 0.5)
                whole.discard(PARTS[name].digest)
        self.pond.start(whole)
        if swept:
            self.pond.await_sweep(whole)

    # What has to hold

    @invariant()
    def nothing_is_wrong(self) -> None:
        """P and A; W, H, K, S and B are looked after where something is asked for."""
        with self.explained():
            self.pond.check()

    def teardown(self) -> None:
        """At the end of a case nothing is in the way any more, and everything can be had."""
        try:
            if sys.exc_info()[0] is None:
                with self.explained():
                    self._end_well()
        finally:
            self.close()

    def _end_well(self) -> None:
        self.note("the end")
        self.pond.free_disk()
        self._recover()
        for part in PARTS.values():
            pull = self._pull_manifest if part.media_type else functools.partial(self._pull, wanted=None)
            pull(part, expected=self.expected)
        self.pond.await_idle()
        self.pond.check()
        assert not self.upstream.violations, self.upstream.violations


def counts(counted: Mapping[str, int]) -> str:
    return "\n".join(f"{count:8} {what}" for what, count in sorted(counted.items()))
