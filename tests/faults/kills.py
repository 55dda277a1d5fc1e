"""A storm of pulls that is killed: what its clients got, and what has to be found on the disk afterwards."""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.cache.disks import bytes_on_disk
from tests.support import images
from tests.support.millpond import Millpond
from tests.support.pulls import Download, get, opened
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

_CLIENTS: Final = 10
_COLD: Final = 5  # images that a storm finds cold at its start: more than it can pull before it is killed
# Bytes of an image's layers: a whole one is held back until it is verified (below 1 MiB), or flows before that.
_LAYERS: Final = (2_500_000, 300_000, 9_000)
_TASTES: Final = (1, 4, 4, 2)  # how often a client takes something old, a whole image, one part, or a range of one
_LONGEST_STORM: Final = 80  # responses
_FURTHER: Final = 0.05  # seconds; what a look at the responses misses of what lies between two of them
_LONGEST_START: Final = 0.8  # seconds; alone on a machine the program has started within as many


@dataclass(frozen=True, slots=True)
class Part:
    """A blob or a manifest of one repository: the only right answer to a GET of `path`."""

    path: str
    digest: str
    content: bytes = field(repr=False)

    @property
    def is_blob(self) -> bool:
        return "/blobs/" in self.path


class Stock:
    """All that upstream has. It grows, so that each storm finds something cold."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self.images: list[list[Part]] = []
        self.parts: dict[str, Part] = {}

    def cold(self, kept: set[str]) -> list[list[Part]]:
        """Images that are not `kept` whole; as many are added as a storm needs."""
        cold = [parts for parts in self.images if not kept.issuperset(part.digest for part in parts)]
        while len(cold) < _COLD:
            cold.append(self._add())
        return cold

    def _add(self) -> list[Part]:
        number = len(self.images)
        layers = [images.blob(b"".join(images.noise(size, 100 * number + size))) for size in _LAYERS]
        image = images.index([images.image(layers, note=str(number))])
        repository = f"library/storm-{number}"
        self._upstream.add(image, repository, "1")
        base = f"/v2/{repository}"
        parts = [Part(f"{base}/manifests/{part.digest}", part.digest, part.body) for part in image.walk()]
        parts += [Part(f"{base}/blobs/{blob.digest}", blob.digest, blob.read()) for blob in image.all_blobs().values()]
        self.images.append(parts)
        self.parts.update((part.digest, part) for part in parts)
        return parts


class Storm:
    """Clients that pull whole images, layers and ranges, at random, until the program is killed.

    `wrong` has what must never be, `failed` what went wrong before the kill; `completed` the digests that somebody
    has got whole.
    """

    def __init__(self, url: str, stock: Stock, cold: list[list[Part]], seed: int) -> None:
        self._url = url
        self._cold = cold
        self._old = stock.images
        self._over = threading.Event()
        self._clients = [
            threading.Thread(target=self._pull, args=(random.Random(f"{seed} {number}"),)) for number in range(_CLIENTS)
        ]
        self.wrong: list[str] = []
        self.failed: list[str] = []
        self.completed: set[str] = set()
        self.responses: list[int] = []  # the sizes of those that were whole and right

    def begin(self) -> None:
        for client in self._clients:
            client.start()

    def ending(self) -> None:
        """From now on whatever breaks is the kill's doing."""
        self._over.set()

    def end(self) -> None:
        for client in self._clients:
            client.join(60)
            assert not client.is_alive(), "H: a client hangs though the program has gone"

    def _pull(self, dice: random.Random) -> None:
        while not self._over.is_set():
            image = dice.choice(self._cold)
            match dice.choices(("old", "image", "part", "range"), _TASTES)[0]:
                case "old":
                    self._get(dice.choice(dice.choice(self._old)), None)
                case "image":
                    for part in image:
                        self._get(part, None)
                case "part":
                    self._get(dice.choice(image), None)
                case _:
                    part = dice.choice([part for part in image if part.is_blob])
                    start = dice.randrange(len(part.content))
                    stop = dice.choice((len(part.content), dice.randrange(start, len(part.content)) + 1))
                    self._get(part, (start, stop))

    def _get(self, part: Part, wanted: tuple[int, int] | None) -> None:
        start, stop = wanted or (0, len(part.content))
        headers = {"Range": f"bytes={start}-{stop - 1}"} if wanted else {}
        what = f"GET {part.path} {headers}"
        try:
            with opened(f"{self._url}{part.path}?ns=docker.io", headers) as download:
                body = _body(download)
        except (OSError, http.client.HTTPException) as error:
            self._broken(f"{what}: {error!r}")
            return
        if download.status != (206 if wanted else 200):
            self._broken(f"{what}: {download.status} {body[:500]!r}")
        elif not part.content[start:stop].startswith(body):
            self.wrong.append(f"{what}: {len(body)} bytes came, and are not its own")
        elif len(body) < stop - start:
            self._broken(f"{what}: {len(body)} of {stop - start} bytes")
        else:
            self.responses.append(len(body))
            if not wanted:
                self.completed.add(part.digest)

    def _broken(self, said: str) -> None:
        if not self._over.is_set():
            self.failed.append(said)


class KilledAgain:
    """One directory, and a program on it that is killed again and again; `figures` counts what that came to."""

    def __init__(self, millpond: Millpond, upstream: ScriptedUpstream, stock: Stock, dice: random.Random) -> None:
        self._millpond = millpond
        self._upstream = upstream
        self._stock = stock
        self._dice = dice
        self._shelf = Shelf(millpond.cache)
        self._committed: set[str] = set()  # what lay under its name when the program had been killed
        self._found_again: set[str] = set()  # … and was a hit after a later start
        self.figures: Counter[str] = Counter()

    def look_around(self) -> None:
        """After a start: A, nothing temporary and exact accounts; K, whatever lay under its name is there and a hit."""
        millpond = self._millpond
        millpond.process.wait_ready(millpond.ready)
        assert millpond.incoming() == [], "A: something temporary has outlived a restart"
        wait_until(lambda: millpond.log_lines(event="cache swept"), "the cache is swept", 60)
        files = self._shelf.look()
        assert files.keys() == self._committed, f"K: {files.keys() ^ self._committed}"
        assert millpond.metric("millpond_cache_blobs") == len(files), "A: not every file is accounted for"
        accounted = millpond.metric("millpond_cache_bytes")
        assert accounted == sum(files.values()) == bytes_on_disk(millpond.cache), f"A: {accounted}"
        self._upstream.requests.clear()
        for digest in sorted(files.keys() - self._found_again):
            part = self._stock.parts[digest]
            reply = get(f"{millpond.url}{part.path}?ns=docker.io")
            assert (reply.status, reply.body) == (200, part.content), f"W: {part} {reply}"
            hit = reply.headers["x-millpond"] == "hit"
            # For a blob upstream's word that the repository holds it is enough. A manifest's type is in the ledger
            # alone, which is written a moment later.
            assert hit or not part.is_blob, f"K: {part} {reply}"
            self.figures["manifests asked for again though they were there"] += not hit
        assert self._upstream.seen("/blobs/") == [], "K: what was there has been fetched again"
        self.figures["parts kept, each found again after a kill"] = len(files)
        self._found_again.update(files)

    def forget_what_was_seen(self) -> None:
        """The next look is at everything, not only at what is new."""
        self._shelf.forget()
        self._found_again.clear()

    def kill_in_a_storm(self) -> None:
        """Of all responses none is wrong, and before the kill none fails either."""
        storm = Storm(self._millpond.url, self._stock, self._stock.cold(self._committed), self._dice.getrandbits(64))
        storm.begin()
        # In responses, so that a slow machine is not killed before it has begun; what is cold does not last long.
        due = int(_LONGEST_STORM * self._dice.random() ** 2)
        wait_until(lambda: len(storm.responses) >= due or storm.failed, f"{due} responses have come", 60)
        time.sleep(self._dice.uniform(0, _FURTHER))  # the moment itself is random: there is nothing to wait for
        storm.ending()
        self._millpond.kill()
        storm.end()
        assert (storm.wrong, storm.failed) == ([], []), f"W: {storm.wrong}, before the kill: {storm.failed}"
        self._take_stock()
        self.figures["responses that were whole, and right"] += len(storm.responses)
        self.figures["parts that a client had whole when it was killed"] += len(storm.completed)
        # A client has its last byte when it is verified, and does not wait for the disk.
        self.figures["… of which not yet under their name"] += len(storm.completed - self._committed)
        self._start_again()

    def kill_while_it_starts(self) -> None:
        """At any moment from the interpreter's first to the sweep, or a little later."""
        time.sleep(self._dice.uniform(0, _LONGEST_START))
        self._millpond.kill()
        self._take_stock()
        self.figures["kills before it was ready"] += 1
        self._start_again()

    def _take_stock(self) -> None:
        files = self._shelf.look().keys()
        assert files >= self._committed, "K: a kill has cost what was kept"
        self._committed = set(files)
        self.figures["files that a kill left unfinished"] += len(self._millpond.incoming())

    def _start_again(self) -> None:
        """The log of each life is free of errors and tracebacks; the next one begins with an empty log."""
        assert not self._millpond.complaints(), self._millpond.complaints()
        errors = self._millpond.log_lines(level="error")
        assert not errors, errors
        (self._millpond.directory / "millpond.log").write_bytes(b"")
        self._millpond.start(wait=False)


class Shelf:
    """What lies below `blobs/`; each file is hashed once, and again when it has changed."""

    def __init__(self, cache: Path) -> None:
        self._blobs = cache / "blobs"
        self._hashed: dict[str, tuple[int, int, int]] = {}

    def look(self) -> dict[str, int]:
        """Size by digest, in bytes. P: each file hashes to its name."""
        found: dict[str, int] = {}
        for path in self._files():
            digest = f"{path.parent.parent.name}:{path.name}"
            status = path.stat()
            known = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self._hashed.get(digest) != known:
                assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == digest, "P: not what its name says"
                self._hashed[digest] = known
            found[digest] = status.st_size
        return found

    def forget(self) -> None:
        """Hash everything again at the next look."""
        self._hashed.clear()

    def _files(self) -> Iterator[Path]:
        return (path for path in self._blobs.rglob("*") if not path.is_dir())


def _body(download: Download) -> bytes:
    parts = []
    while part := download.read(1 << 20):
        parts.append(part)
    return b"".join(parts)
