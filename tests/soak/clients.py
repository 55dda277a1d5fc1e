"""The clients of a soak. Each compares what it gets with the source, and keeps an account of what went wrong."""

from __future__ import annotations

import http.client
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.soak.stage import Stage, Stocked
from tests.support.images import Blob
from tests.support.programs import environment, find
from tests.support.pulls import get, opened

# Longer than all of Millpond's own deadlines here; a client that waits for so long has been left hanging.
DEADLINE: Final = 30.0
_MOST_KEPT: Final = 50  # errors that are shown; the others are counted
_BREATH: Final = 0.01  # seconds between two pulls of a client, so that the machine serves and not only asks
_PAUSE: Final = 0.2  # the same after one that failed: who starts shall not be trampled down


class Wrong(Exception):
    """What a client got has an end, and is not what its name says: no fault excuses it."""


class Failed(Exception):
    """What a client asked for did not come."""


@dataclass
class Account:
    """What clients did, and what they met."""

    done: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    unexpected_count: int = 0

    def blame(self, text: str) -> None:
        self.unexpected_count += 1
        if len(self.unexpected) < _MOST_KEPT:
            self.unexpected.append(text)


class Clients:
    """Threads that pull until `stop`. `pause` lets each finish what it does, and returns when all of them wait."""

    def __init__(self, stage: Stage, seed: int, directory: Path) -> None:
        self.account = Account()
        self._stage = stage
        self._directory = directory
        self._lock = threading.Lock()
        self._resting: set[int] = set()
        self._go, self._ended = threading.Event(), threading.Event()
        kinds: list[Callable[[random.Random], str]] = [self._pull, self._pull, self._pull, self._range, self._leave]
        if find("skopeo"):
            kinds.append(self._skopeo)
        self._threads = [
            threading.Thread(target=self._work, args=(number, kind, random.Random(f"{seed} {number}")), daemon=True)
            for number, kind in enumerate(kinds)
        ]

    def start(self) -> None:
        self._go.set()
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        self._go.clear()
        end = time.monotonic() + 3 * DEADLINE
        while len(self._resting) < len(self._threads):
            assert time.monotonic() < end, "a client neither ends nor fails"
            time.sleep(0.02)

    def resume(self) -> None:
        self._resting.clear()
        self._go.set()

    def stop(self) -> None:
        self._ended.set()
        self._go.set()
        for thread in self._threads:
            thread.join(3 * DEADLINE)
            assert not thread.is_alive(), "a client neither ends nor fails"

    def last_round(self) -> None:
        """Every image once, by one client, when nothing is wrong any more."""
        dice = random.Random(0)
        for stocked in self._stage.stock:

            def pull(_: random.Random, stocked: Stocked = stocked) -> str:
                return self._pull_whole(stocked)

            self._judged(pull, dice)

    def _work(self, number: int, kind: Callable[[random.Random], str], dice: random.Random) -> None:
        while not self._ended.is_set():
            if not self._go.is_set():
                self._resting.add(number)
                self._go.wait()
                continue
            self._ended.wait(_BREATH if self._judged(kind, dice) else _PAUSE)

    def _judged(self, kind: Callable[[random.Random], str], dice: random.Random) -> bool:
        """Whether it did what it wanted to do."""
        begin = time.monotonic()
        try:
            what = kind(dice)
        except Wrong as error:
            with self._lock:
                self.account.blame(f"wrong bytes: {error}")
        except (Failed, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            end = time.monotonic()
            excuse = self._excuse(begin, end)
            hung = isinstance(error, TimeoutError | subprocess.TimeoutExpired)
            with self._lock:
                if excuse and not hung:
                    self.account.excused[excuse] += 1
                else:
                    self.account.blame(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001  a defect of the soak itself shall not end a client unseen
            with self._lock:
                self.account.blame(f"the soak itself: {error!r}")
        else:
            with self._lock:
                self.account.done[what] += 1
            return True
        return False

    def _excuse(self, begin: float, end: float) -> str:
        if self._stage.outages.was_down(begin, end):
            return "the program was down"
        if self._stage.weather.struck(begin, end):
            return "upstream failed"
        return ""

    # What they do

    def _pull(self, dice: random.Random) -> str:
        return self._pull_whole(dice.choice(self._stage.stock))

    def _pull_whole(self, stocked: Stocked) -> str:
        base, image = self._stage.base(stocked), stocked.image
        for reference in ("v", image.digest):
            reply = get(f"{base}/manifests/{reference}", timeout=DEADLINE)
            self._must(reply.status == 200, f"{base}/manifests/{reference}: {reply.status} {reply.text[:200]}")
            if reply.complete and reply.body != image.body:
                raise Wrong(f"{base}/manifests/{reference}")
            self._must(reply.complete, f"{base}/manifests/{reference}: broken off")
        for blob in stocked.blobs:
            begin = time.monotonic()
            reply = get(f"{base}/blobs/{blob.digest}", keep=False, timeout=DEADLINE)
            self._must(reply.status == 200, f"{base}/blobs/{blob.digest}: {reply.status}")
            self._must(reply.complete, f"{base}/blobs/{blob.digest}: broken off at {reply.size} of {blob.size}")
            if reply.digest != blob.digest:
                self._distinguish(begin, blob, f"{base}/blobs/{blob.digest}")
        return "images pulled"

    def _range(self, dice: random.Random) -> str:
        stocked = dice.choice(self._stage.stock)
        blob = dice.choice(stocked.blobs)
        url, content = f"{self._stage.base(stocked)}/blobs/{blob.digest}", blob.read()
        start = dice.randrange(blob.size)
        stop = dice.choice((blob.size, dice.randint(start + 1, blob.size)))
        begin = time.monotonic()
        reply = get(url, {"Range": f"bytes={start}-{stop - 1}"}, timeout=DEADLINE)
        self._must(reply.status == 206, f"{url} from {start} to {stop}: {reply.status}")
        self._must(reply.complete, f"{url} from {start} to {stop}: broken off")
        if reply.body != content[start:stop]:
            # W: an inner range of a blob in flight is what upstream sent; what ends at the last byte is verified.
            self._must(stop == blob.size or reply.headers["x-millpond"] == "hit", f"{url}: an inner range")
            self._distinguish(begin, blob, f"{url} from {start} to {stop}")
        return "ranges"

    def _leave(self, dice: random.Random) -> str:
        stocked = dice.choice(self._stage.stock)
        blob = max(stocked.blobs, key=lambda one: one.size)
        url = f"{self._stage.base(stocked)}/blobs/{blob.digest}"
        with opened(url, timeout=DEADLINE) as download:
            self._must(download.status == 200, f"{url}: {download.status}")
            download.read(dice.randrange(blob.size))
        return "clients that left"

    def _skopeo(self, dice: random.Random) -> str:
        stocked = dice.choice(self._stage.stock)
        target = self._directory / "skopeo"
        shutil.rmtree(target, ignore_errors=True)
        source = f"docker://{self._stage.millpond.host}/{stocked.upstream}/{stocked.path}:v"
        command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", source, f"dir:{target}"]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=3 * DEADLINE, check=False
        )
        self._must(done.returncode == 0, f"skopeo: {done.stderr[-300:]}")
        return "skopeo copies"

    def _distinguish(self, begin: float, blob: Blob, what: str) -> None:
        """Bytes that the soak altered under the reader's hands are its own doing."""
        if self._stage.outages.was_damaged(begin, time.monotonic(), blob.digest):
            self.account.excused["damaged while it was read"] += 1
            return
        raise Wrong(what)

    @staticmethod
    def _must(good: bool, what: str) -> None:
        if not good:
            raise Failed(what)
