"""A storm of nodes on paper: how long until all have the image, and what of it upstream sends.

Bytes flow like water: whoever shares a network card shares it evenly, and what one cannot take the others get (max-min
fairness). Nodes do as containerd: the manifests, then three layers at a time, in order. Instances do as Millpond: one
download a blob, which all who ask follow while it arrives. Homes of blobs are drawn by the seed; no more is chance.
Sizes are in bytes, speeds in bytes a second. Standard library only: `python3 -m deploy.simulate` needs no more.
"""
# ruff: noqa: INP001  deploy/ holds files for people, and is no package

from __future__ import annotations

import math
import random
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

GBIT: Final = 1e9 / 8
GIB: Final = 1 << 30

# README.md, "How fast": an instance on two processors that servers, clients and upstream share.
SERVED: Final = 4.7e9  # a cached blob, 16 clients
TAKEN: Final = 422e6  # a cold blob, no limit
MANIFESTS: Final = 10_415.0  # manifests by tag a second

MANIFEST_REQUESTS: Final = 3  # HEAD of the tag, index, manifest; all at the repository's one home
LAYERS_AT_A_TIME: Final = 3  # containerd's max_concurrent_downloads
GROUPS: Final = 20  # at least so many groups of nodes, each of which does everything together
LIMIT: Final = 100  # pulls that Docker Hub gives an address without an account …
WINDOW: Final = 6 * 3600.0  # … in so many seconds
_EPSILON: Final = 1e-9

# A gigabyte of application: most of it in one layer, as it is in practice. Shares of the whole.
SHAPE: Final = (0.45, 0.20, 0.12, 0.08, 0.06, 0.05, 0.03, 0.01)


@dataclass(frozen=True, slots=True)
class Storm:
    """What happens. `spread` instances share a blob (hash-balance-factor); `fronts` 0 is no HAProxy between."""

    nodes: int
    instances: int = 1
    layers: tuple[float, ...] = tuple(share * GIB for share in SHAPE)
    warm: bool = False  # the disks have it
    ecr: bool = False  # the disks do not, ECR does
    spread: int = 1
    fronts: int = 0
    nic: float = 25 * GBIT  # of an instance and of a HAProxy, each direction
    node_nic: float = 10 * GBIT
    upstream_speed: float = 5 * GBIT  # of all instances together
    ecr_speed: float = 8 * GBIT  # of each instance
    ramp: float = 0.0  # seconds within which the nodes begin; 0: all at once
    limit: int = LIMIT
    homes: tuple[int, ...] = ()  # of the layers; empty: drawn
    seed: int = 1

    @property
    def size(self) -> float:
        return sum(self.layers)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`seconds`: when each group of nodes had the image, from the beginning of the storm."""

    seconds: tuple[float, ...]
    served: float
    upstream: float
    ecr: float
    pulls: int  # that upstream counts

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def last(self) -> float:
        return max(self.seconds)

    @property
    def hit_ratio(self) -> float:
        """The share of what the nodes got that upstream did not send."""
        return 1 - self.upstream / self.served


def simulate(storm: Storm) -> Outcome:
    """Run one storm to its end."""
    return _Run(storm).run()


def bound(storm: Storm) -> float:
    """By arithmetic, the least time that the last node can need when nothing but bytes counts, and homes are even."""
    busy = min(storm.instances, len(storm.layers)) if storm.spread == 1 else storm.instances
    bounds = [storm.size / storm.node_nic, storm.nodes * storm.size / (busy * min(storm.nic, SERVED))]
    if storm.spread == 1:
        bounds.append(storm.nodes * max(storm.layers) / min(storm.nic, SERVED))
    if not storm.warm and not storm.ecr:
        bounds.append(storm.size * min(storm.spread, storm.nodes) / storm.upstream_speed)
    return max(bounds)


def quota_wait(pulls: int, limit: int, window: float = WINDOW) -> float:
    """Seconds until the last of `pulls` may be made, where `limit` are allowed in each `window`."""
    return max(0, math.ceil(pulls / limit) - 1) * window


@dataclass(slots=True)
class _Download:
    """An instance fetches a blob. `left` bytes are still to come, at `rate`."""

    left: float
    rate: float = 0.0


@dataclass(slots=True, eq=False)
class _Stream:
    """Each node of a group takes a layer from an instance. `download` until it has all that the stream still needs."""

    group: int
    instance: int
    left: float
    download: _Download | None
    rate: float = 0.0

    @property
    def follows(self) -> bool:
        """Whether it has all that has arrived, and can be no faster than the download."""
        return self.download is not None and self.left <= self.download.left + _EPSILON * max(1.0, self.left)


@dataclass(slots=True)
class _Group:
    asks: float  # when it has the manifests
    nodes: float
    waiting: list[int]
    running: int = 0
    ended: float = 0.0


class _Run:
    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        chance = random.Random(storm.seed)  # noqa: S311  homes, not secrets
        homes = storm.homes or tuple(chance.randrange(storm.instances) for _ in storm.layers)
        spread = min(storm.spread, storm.instances)
        self.homes = [[(home + more) % storm.instances for more in range(spread)] for home in homes]
        self.now = 0.0
        self.upstream = self.ecr = 0.0
        self.downloads: dict[tuple[int, int], _Download] = {}  # by instance and layer
        self.streams: list[_Stream] = []
        self.groups = self._groups(homes, spread)

    def _groups(self, homes: Sequence[int], spread: int) -> list[_Group]:
        # A multiple of the instances that share a blob, so that they share it evenly.
        count = min(math.ceil(GROUPS / spread) * spread, self.storm.nodes)
        nodes = self.storm.nodes / count
        groups, free = [], 0.0
        for number in range(count):
            begins = self.storm.ramp * number / count
            # Its manifests wait until those of the groups before it have been served.
            free = max(free, begins) + nodes * MANIFEST_REQUESTS / MANIFESTS
            groups.append(_Group(free, nodes, list(range(len(homes)))))
        return groups

    def run(self) -> Outcome:
        coming = sorted(range(len(self.groups)), key=lambda number: self.groups[number].asks, reverse=True)
        while coming or self.streams:
            while coming and self.groups[coming[-1]].asks <= self.now + _EPSILON:
                self._ask(coming.pop())
            self._share()
            step = min([*self._moments(), self.groups[coming[-1]].asks - self.now if coming else math.inf])
            assert math.isfinite(step), "nothing moves any more"
            self._pass(step)
        pulls = 0 if self.storm.warm or self.storm.ecr else 1
        wait = quota_wait(pulls, self.storm.limit)
        seconds = tuple(group.ended + wait for group in self.groups)
        return Outcome(seconds, self.storm.nodes * self.storm.size, self.upstream, self.ecr, pulls)

    def _ask(self, number: int) -> None:
        """The group asks for layers until it has as many at a time as it may."""
        group = self.groups[number]
        while group.waiting and group.running < LAYERS_AT_A_TIME:
            layer = group.waiting.pop(0)
            homes = self.homes[layer]
            instance = homes[number % len(homes)]
            download = None
            if not self.storm.warm:
                size = self.storm.layers[layer]
                download = self.downloads.setdefault((instance, layer), _Download(size))
            self.streams.append(_Stream(number, instance, self.storm.layers[layer], download))
            group.running += 1

    def _share(self) -> None:
        """Give every download and every stream its rate."""
        storm = self.storm
        loading = {key: download for key, download in self.downloads.items() if download.left > 0}
        limits: dict[Hashable, float] = {"upstream": math.inf if storm.ecr else storm.upstream_speed}
        uses: list[tuple[_Download | _Stream, float, list[Hashable]]] = []
        for (instance, _), download in loading.items():
            limits["in", instance] = min(storm.nic, TAKEN, storm.ecr_speed if storm.ecr else math.inf)
            uses.append((download, 1.0, ["upstream", ("in", instance)]))
        _fill(uses, limits, {})
        limits = {"fronts": storm.fronts * storm.nic or math.inf}
        uses, caps = [], {}
        for stream in self.streams:
            limits["out", stream.instance] = min(storm.nic, SERVED)
            group = self.groups[stream.group]
            limits["node", stream.group] = storm.node_nic * group.nodes
            uses.append((stream, group.nodes, ["fronts", ("out", stream.instance), ("node", stream.group)]))
            if stream.follows:
                assert stream.download
                caps[id(stream)] = stream.download.rate
        _fill(uses, limits, caps)

    def _moments(self) -> Iterable[float]:
        """Seconds until something changes."""
        for download in self.downloads.values():
            if download.left > 0:
                yield download.left / download.rate
        for stream in self.streams:
            if stream.rate > 0:
                yield stream.left / stream.rate
            if stream.download and not stream.follows and stream.rate > stream.download.rate:
                yield (stream.left - stream.download.left) / (stream.rate - stream.download.rate)

    def _pass(self, step: float) -> None:
        self.now += step
        for download in self.downloads.values():
            if download.left > 0:
                came = min(download.left, download.rate * step)
                download.left -= came
                if download.left < 1:  # a byte: what rounding leaves
                    came, download.left = came + download.left, 0.0
                if self.storm.ecr:
                    self.ecr += came
                else:
                    self.upstream += came
        ended = []
        for stream in self.streams:
            stream.left -= stream.rate * step
            if stream.download and stream.follows:
                stream.left = max(stream.left, stream.download.left)
            if stream.download and stream.download.left == 0:
                stream.download = None
            if stream.left < 1:
                ended.append(stream)
        self.streams = [stream for stream in self.streams if stream.left >= 1]
        for stream in ended:
            group = self.groups[stream.group]
            group.running -= 1
            self._ask(stream.group)
            if not group.running:
                group.ended = self.now


def _fill(
    uses: Sequence[tuple[_Download | _Stream, float, list[Hashable]]],
    limits: dict[Hashable, float],
    caps: dict[int, float],
) -> None:
    """Max-min fairness: all rates rise together; who meets a full limit, or its own cap, stays where it is."""
    left = dict(limits)
    rising = list(uses)
    while rising:
        weights: defaultdict[Hashable, float] = defaultdict(float)
        for _, weight, names in rising:
            for name in names:
                weights[name] += weight
        level = min(left[name] / weight for name, weight in weights.items())
        level = min([level, *(caps[id(one)] for one, _, _ in rising if id(one) in caps)])
        # `left` counts from zero for those that still rise, so what has been given is not subtracted from their share.
        full = {name for name, weight in weights.items() if left[name] / weight <= level * (1 + _EPSILON)}
        still = []
        for one, weight, names in rising:
            if full.intersection(names) or caps.get(id(one), math.inf) <= level * (1 + _EPSILON):
                one.rate = level
                for name in names:
                    left[name] = max(0.0, left[name] - weight * level)
            else:
                still.append((one, weight, names))
        rising = still
