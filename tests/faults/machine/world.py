"""What the machine's rules act on: upstream, program and clients of one case, and what may be expected of them now."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ClassVar, Final, Literal

from tests.faults.machine import content
from tests.faults.machine.books import How
from tests.faults.machine.clients import Client, Expectation, Outcome, judge_blob, judge_manifest
from tests.faults.machine.content import BLOBS, MANIFESTS, REPOSITORY, TAGS, Part
from tests.faults.machine.pond import UPSTREAM, Pond
from tests.faults.machine.troubles import LIES, SLOW, TROUBLES
from tests.support import images
from tests.support.faults import Gate, change
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

# H: a step is over after a few seconds; a stall of every connection that a download may try adds some.
STEP: Final = 90.0
# After the last trouble, upstream has to be usable again within this; breakers open for less than a second here.
_RECOVERY: Final = 30.0
# What a failure shows of a line of the log.
_SAID: Final = ("timestamp", "level", "event", "method", "item", "digest", "status", "outcome", "why", "reason")

Event = Literal["nothing", "kill", "terminate", "outage", "delete", "full disk"]
Ranged = tuple[Literal["from", "inner", "last", "beyond"], float, float]


class World:
    """One case: a Millpond with an empty cache, an upstream that behaves, and what then happens to both."""

    plant: ClassVar[str] = ""
    counted: ClassVar[Counter[str]] = Counter()  # what all cases together have done and seen

    def __init__(self) -> None:
        super().__init__()
        self.counted["cases"] += 1
        self.happened: list[str] = []
        self.began = time.monotonic()
        self.upstream = ScriptedUpstream().start()
        content.fill(self.upstream)
        self.pond = Pond(self.upstream, self.plant)
        self.reachable = True  # upstream listens
        self.calm = True  # nothing stands in the way of a pull
        self.honest = True  # upstream has told no untruth that could still be on its way
        self.pointed = {tag: [name] for tag, name in TAGS.items()}  # what each tag has ever pointed at, newest last
        self.held: dict[int, Held] = {}
        self.recent: deque[str] = deque(maxlen=3)  # blobs that were asked for
        self.canaries = 0

    def close(self) -> None:
        for held in self.held.values():
            held.client.leave()
        if self.pond.millpond.process.running:
            self.counted["evictions"] += int(self.pond.millpond.metric("millpond_cache_evictions_total"))
        self.pond.close()
        self.upstream.stop()

    @property
    def expected(self) -> Expectation:
        return Expectation(self.honest, self.calm)

    @staticmethod
    def path(part: Part) -> str:
        return f"/v2/{UPSTREAM}{part.path.removeprefix('/v2')}"

    def _pull(self, part: Part, wanted: str | None, expected: Expectation) -> None:
        got = Client(self.pond.port, self.path(part), wanted=wanted).finish()
        self.judge(part, wanted, got, expected)

    def _pull_manifest(self, part: Part, expected: Expectation) -> None:
        got = Client(self.pond.port, self.path(part)).finish()
        self._note_outcome(got)
        judge_manifest({part.digest: part}, got, expected)

    def _pull_tag(self, tag: str, expected: Expectation) -> None:
        got = Client(self.pond.port, f"/v2/{UPSTREAM}/{REPOSITORY}/manifests/{tag}").finish()
        self._note_outcome(got)
        names = self.pointed[tag][-1:] if expected.calm else self.pointed[tag]
        judge_manifest({MANIFESTS[name].digest: MANIFESTS[name] for name in names}, got, expected)

    def judge(
        self, part: Part, wanted: str | None, got: Outcome, expected: Expectation, read: int | None = None
    ) -> None:
        self._note_outcome(got)
        judge_blob(part, wanted, got, expected, read=read)

    def _storm(self, names: list[str], clients: int, event: Event, share: float) -> None:
        """Clients together, and in the middle something happens: once upstream has sent `share` of the first blob, or
        what is asked for is here already."""
        self.recent.extend(names)
        part, gate = BLOBS[names[0]], Gate()
        if self.calm:  # a script for one blob would take the place of a trouble for all
            self.upstream.script(part.digest, change(gates={int(part.size * share): gate}))
        expected = Expectation(self.honest, self.calm and event in ("nothing", "delete", "full disk"), up=False)
        headers = [None, f"bytes={part.size // 2}-", f"bytes={part.size // 3}-{part.size // 2}", None]
        with ThreadPoolExecutor(clients * len(names)) as pool:
            running = [
                pool.submit(self._pull, BLOBS[name], headers[number] if name == names[0] else None, expected)
                for number in range(clients)
                for name in names
            ]
            wait_until(
                lambda: gate.reached.is_set() or any(map(Future.done, running)), "something comes of the storm", STEP
            )
            try:
                self._happen(event, part, gate)
            finally:
                gate.open()
            for client in running:
                client.result()
        if self.calm:
            self.upstream.behave()

    def _happen(self, event: Event, part: Part, gate: Gate) -> None:
        match event:
            case "kill" | "terminate":
                self._disturbed()
                self.pond.start(self.pond.end(killed=event == "kill", meanwhile=gate.open))
            case "outage":
                self._outage()
            case "delete":
                self._damage(part, "delete", 0)
            case "full disk":
                self.pond.fill_disk()

    def _trouble(self, trouble: str, where: str, share: float, times: int) -> None:
        self.calm = False
        self.honest = self.honest and trouble not in LIES
        fault = TROUBLES[trouble](share)
        times = times or (2 if trouble in SLOW else 0)
        self.upstream.script(where, *[fault] * times, then=None if times else fault, method="")
        self._disturbed()

    def _outage(self) -> None:
        self.calm = False
        self._disturbed()
        self.upstream.stop()
        self.reachable = False

    def _recover(self) -> None:
        """H, B: once nothing is wrong with upstream any more, nothing is wrong with a pull."""
        self.upstream.behave()
        self.upstream.stop()
        self.upstream.start()
        self.reachable = True
        self.pond.await_idle()
        self.canaries += 1
        canary = images.blob(f"canary {self.canaries}".encode())
        digest = self.upstream.add_blob(REPOSITORY, canary.read())
        part = Part("canary", digest, canary.read())
        manifest = images.artifact(images.EMPTY_CONFIG, [canary], artifact_type=f"application/canary{self.canaries}")
        made = Part("canary", manifest.digest, manifest.body, manifest.media_type)
        self.upstream.add_manifest(REPOSITORY, made.content, made.media_type)
        wait_until(lambda: self._succeeds(part) and self._succeeds(made), "B: upstream is used again", _RECOVERY)
        wait_until(lambda: all(map(self._is_current, self.pointed)), "B: tags are compared again", _RECOVERY)
        self.calm = self.honest = True

    def _succeeds(self, part: Part) -> bool:
        return Client(self.pond.port, self.path(part)).finish().body == part.content

    def _is_current(self, tag: str) -> bool:
        got = Client(self.pond.port, f"/v2/{UPSTREAM}/{REPOSITORY}/manifests/{tag}").finish()
        return got.headers.get("docker-content-digest") == MANIFESTS[self.pointed[tag][-1]].digest

    def _damage(self, part: Part, how: How, share: float) -> None:
        """What somebody is reading is only deleted: a disk that changes under a reader is beyond any cache."""
        read = any(held.part is part for held in self.held.values())
        if not read or how == "delete":
            self.note(f"  {'done' if self.pond.books.damage(part, how, share) else 'not here'}")

    def _let_go(self, slot: int) -> None:
        if slot in self.held:
            held = self.held.pop(slot)
            self.judge(held.part, held.client.wanted, held.client.leave(), held.expected, read=0)

    def _disturbed(self) -> None:
        """Whoever is being served may be cut off from now on, rightly, or may meet what upstream does now."""
        for held in self.held.values():
            held.disturb()

    def note(self, line: str) -> None:
        self.happened.append(f"{time.monotonic() - self.began:7.2f}  {line}")

    def _note_outcome(self, got: Outcome) -> None:
        self.note(f"  {got}")
        self.counted[f"answers {got.status} {got.headers.get('x-millpond', '')}".strip()] += 1

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = [" ".join(str(line[key]) for key in _SAID if key in line) for line in self.pond.millpond.log_lines()]
            lines = ["What happened, in seconds from the start:", *self.happened, "", "The program's log:", *said[-60:]]
            error.add_note("\n".join(lines))
            raise


class Held:
    """A client that is in no hurry."""

    def __init__(self, world: World, part: Part, wanted: str | None) -> None:
        self.part = part
        self.expected = world.expected
        self.client = Client(world.pond.port, world.path(part), wanted=wanted)

    def disturb(self) -> None:
        self.expected = Expectation(honest=False, calm=False, up=False)


def header(part: Part, wanted: Ranged | None) -> str | None:
    """A Range header; the shares are of the part's size."""
    if wanted is None:
        return None
    kind, one, other = wanted
    start, stop = sorted((int(part.size * one), int(part.size * other)))
    return {
        "from": f"bytes={start}-",
        "inner": f"bytes={start}-{stop}",
        "last": f"bytes=-{stop + 1}",
        "beyond": f"bytes={part.size + start}-",
    }[kind]
