"""A machine that does to a cache whatever can be done to it, in any order, and counts the bytes after each step."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.cache.files import IncomingFile
from proxy.cache.sweep import sweep
from proxy.cache.verdict import Verdict
from proxy.oci.digest import Digest
from proxy.oci.errors import DiskFailure
from proxy.oci.names import Repository
from tests.cache.disks import Opened, bytes_on_disk, content, opened

MAX_SIZE = 2000
APP = Repository("docker.io", "library/app")
sizes = st.integers(0, 900) | st.just(MAX_SIZE + 1)
seeds = st.integers(0, 3)
choices = st.integers(0, 50)


class CacheMachine(RuleBasedStateMachine):
    """W, P and A, and that the oldest go first."""

    def __init__(self) -> None:
        super().__init__()
        structlog.configure(processors=[_silence])
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="millpond-"))
        self.arriving: list[tuple[IncomingFile, bytes]] = []
        self.bodies: dict[Digest, bytes] = {}
        self.order: list[Digest] = []  # what must be there, least recently used first
        self.pinned: set[Digest] = set()  # there or not

    @initialize()
    def start(self) -> None:
        self.context: AbstractAsyncContextManager[Opened] = opened(self.directory, MAX_SIZE)
        self.cache = self.runner.run(self.context.__aenter__())

    def body(self, size: int, seed: int) -> tuple[Digest, bytes]:
        body = content(size, seed)
        self.bodies[Digest.of(body)] = body
        return Digest.of(body), body

    def make_room(self, size: int) -> bool:
        """What the store has to do for `size` bytes, in the slow way."""
        reserved = sum(incoming.size for incoming, _ in self.arriving)
        kept = sum(len(self.bodies[digest]) for digest in self.order if digest in self.pinned)
        if size + reserved + kept > MAX_SIZE:
            return False
        while sum(len(self.bodies[digest]) for digest in self.order) + reserved + size > MAX_SIZE:
            self.order.remove(next(digest for digest in self.order if digest not in self.pinned))
        return True

    def use(self, digest: Digest) -> None:
        self.order.remove(digest)
        self.order.append(digest)

    @rule(size=sizes, seed=seeds)
    def put(self, size: int, seed: int) -> None:
        digest, body = self.body(size, seed)
        if digest in self.order:
            self.use(digest)
        elif not self.make_room(size):
            try:
                self.runner.run(self.cache.store.put(digest, body))
            except DiskFailure:
                return
            raise AssertionError("there was no room")
        else:
            self.order.append(digest)
        self.runner.run(self.cache.store.put(digest, body))
        self.cache.clock.now += 1

    @rule(size=sizes, seed=seeds)
    def begin(self, size: int, seed: int) -> None:
        digest, body = self.body(size, seed)
        room = self.make_room(size)
        try:
            incoming = self.runner.run(self.cache.store.begin(digest, size))
        except DiskFailure:
            assert not room
        else:
            assert room
            self.arriving.append((incoming, body))

    @precondition(lambda self: self.arriving)
    @rule(which=choices, share=st.floats(0, 1), good=st.booleans())
    def go_on(self, which: int, share: float, good: bool) -> None:
        incoming, body = self.arriving[which % len(self.arriving)]
        part = body[incoming.hashed :][: int(len(body) * share)]
        self.runner.run(self.cache.arrive(incoming, [part if good else bytes(len(part))]))

    @precondition(lambda self: self.arriving)
    @rule(which=choices)
    def land(self, which: int) -> None:
        incoming, body = self.arriving.pop(which % len(self.arriving))
        if incoming.verified:
            assert os.pread(incoming.file.fileno(), len(body) + 1, 0) == body
            self.runner.run(self.cache.store.commit(incoming))
            if incoming.digest in self.order:
                self.order.remove(incoming.digest)
            self.order.append(incoming.digest)
            self.cache.clock.now += 1
        else:
            self.runner.run(self.cache.store.discard(incoming))
        incoming.file.close()

    @precondition(lambda self: self.order)
    @rule(which=choices)
    def read(self, which: int) -> None:
        digest = self.order[which % len(self.order)]
        assert self.runner.run(self.cache.read(digest)) == self.bodies[digest]
        self.use(digest)
        self.cache.clock.now += 1

    @rule(size=sizes, seed=seeds)
    def pin(self, size: int, seed: int) -> None:
        digest, _ = self.body(size, seed)
        self.cache.cache.pins.pin(APP, digest, digest)
        self.pinned.add(digest)

    @precondition(lambda self: self.pinned)
    @rule(which=choices)
    def unpin(self, which: int) -> None:
        digest = sorted(self.pinned)[which % len(self.pinned)]
        self.cache.cache.pins.unpin(APP, digest)
        self.pinned.remove(digest)
        if digest in self.order:
            self.use(digest)
        self.cache.clock.now += 1

    @precondition(lambda self: self.order)
    @rule(which=choices)
    def evict(self, which: int) -> None:
        digest = self.order.pop(which % len(self.order))
        self.runner.run(self.cache.store.evict(digest))

    @precondition(lambda self: self.order)
    @rule(which=choices, at=choices, hashed=st.booleans())
    def damage(self, which: int, at: int, hashed: bool) -> None:
        digest = self.order[which % len(self.order)]
        body = self.bodies[digest]
        if not body:
            return
        self.order.remove(digest)
        path = self.cache.path(digest)
        if hashed:
            path.write_bytes(bytes([body[0] ^ 1]) + body[1:])
            assert self.runner.run(self.cache.store.verify(digest)) is Verdict.DAMAGED
        else:
            os.truncate(path, at % len(body))
            assert self.runner.run(self.cache.store.read(digest)) is None

    @rule(killed=st.booleans())
    def restart(self, killed: bool) -> None:
        for incoming, _ in self.arriving:
            incoming.file.close()
        self.arriving.clear()
        if killed:  # nothing was written down: the sweep has to find it all
            shutil.rmtree(self.directory / "ledger", ignore_errors=True)
        self.runner.run(self.context.__aexit__(None, None, None))
        if killed:
            shutil.rmtree(self.directory / "ledger", ignore_errors=True)
        self.context = opened(self.directory, MAX_SIZE, clock=self.cache.clock)
        self.cache = self.runner.run(self.context.__aenter__())
        self.runner.run(sweep(self.cache.store, self.cache.cache.catalog))
        if killed:
            assert set(self.cache.store.digests()) == set(self.order)
            kept = [digest for digest in self.order if digest in self.pinned]
            self.order = [digest for digest in self.cache.store.digests() if digest not in self.pinned] + kept

    @invariant()
    def every_byte_is_accounted_for(self) -> None:
        if not hasattr(self, "cache"):
            return
        store = self.cache.store
        may_go = [digest for digest in self.order if digest not in self.pinned]
        kept = set(self.order).intersection(self.pinned)
        assert [digest for digest, _ in store.next_to_go(len(self.order) + 1)] == may_go
        assert set(store.digests()[len(may_go) :]) == kept
        assert store.pinned == sum(len(self.bodies[digest]) for digest in kept)
        assert store.accounted <= MAX_SIZE
        unwritten = sum(incoming.size - incoming.hashed for incoming, _ in self.arriving)
        assert store.accounted - unwritten == bytes_on_disk(self.directory)
        assert len(list((self.directory / "incoming").iterdir())) == len(self.arriving)

    def teardown(self) -> None:
        for incoming, _ in self.arriving:
            incoming.file.close()
        if hasattr(self, "cache"):
            self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()
        shutil.rmtree(self.directory)
        structlog.reset_defaults()


def _silence(*_: object) -> str:
    raise structlog.DropEvent


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=40, stateful_step_count=30)
