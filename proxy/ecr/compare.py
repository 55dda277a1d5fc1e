"""Which digest an image has on disk, upstream, and in every target; and whether that is as it should be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from proxy.ecr.errors import RepositoryMissing
from proxy.ecr.target import Target
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError, Unknown
from proxy.oci.manifest import Manifest
from proxy.oci.names import Image, Reference, Repository
from proxy.oci.source import Source

# Images that are looked up at a time. An upstream sees as many requests, which a registry does not take for abuse.
ROWS_AT_ONCE: Final = 8
# Seconds for one answer, retries within it included: a place that takes longer is shown as failing.
DEADLINE: Final = 30.0

Verdict = Literal["same", "differs", "unverified"]


class Images(Protocol):
    """One target, as `proxy.ecr.api.Api` is."""

    @property
    def target(self) -> Target: ...

    async def images(self, name: str, references: Sequence[Reference]) -> Mapping[Reference, Manifest]:
        """Those of the images that are there."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look. `disk` and `is_index` answer from memory, and know nothing that the disk does not have."""

    disk: Callable[[Image], Digest | None]
    is_index: Callable[[Repository, Digest], bool]
    upstreams: Mapping[str, Source]
    targets: Sequence[Images]


@dataclass(frozen=True, slots=True)
class Cell:
    """What one place has: a digest, or a note why there is none. `failed`: it did not say; `exempt`: none is due."""

    digest: Digest | None = None
    note: str = ""
    failed: bool = False
    exempt: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One image in all places. `verdict` is `unverified` when a target did not answer, or nobody has the image."""

    image: Image
    disk: Cell
    upstream: Cell
    targets: Mapping[str, Cell] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        # Upstream may be down, or have deleted the tag, and the disk may have made room: what they do not have is no
        # difference. A target is to have everything.
        held = {cell.digest for cell in (self.disk, self.upstream, *self.targets.values()) if cell.digest}
        if self.image.digest:
            held.add(self.image.digest)
        due = [cell for cell in self.targets.values() if not cell.exempt]
        lacking = any(cell.digest is None and not cell.failed for cell in due)
        if len(held) > 1 or (held and lacking):
            return "differs"
        return "same" if held and not any(cell.failed for cell in due) else "unverified"

    def as_json(self) -> dict[str, Any]:
        return {
            "image": str(self.image),
            "verdict": self.verdict,
            "disk": _as_json(self.disk),
            "upstream": _as_json(self.upstream),
            "targets": {name: _as_json(cell) for name, cell in self.targets.items()},
        }


async def compare(images: Sequence[Image], places: Places) -> AsyncGenerator[Row, None]:
    """A row for each image, in order. Nothing that a place does makes it end early."""
    waiting = deque(images)
    running: deque[asyncio.Task[Row]] = deque()
    try:
        while waiting or running:
            while waiting and len(running) < ROWS_AT_ONCE:
                running.append(asyncio.create_task(_row(waiting.popleft(), places)))
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _row(image: Image, places: Places) -> Row:
    on_disk = places.disk(image)
    upstream, *targets = await asyncio.gather(
        _upstream(image, places.upstreams), *(_target(image, place) for place in places.targets)
    )
    truth = image.digest or upstream.digest or on_disk
    index = truth is not None and places.is_index(image.repository, truth)
    return Row(
        image,
        Cell(on_disk, "" if on_disk else "not on disk"),
        upstream,
        {
            place.target.name: _excused(cell, place.target) if index else cell
            for place, cell in zip(places.targets, targets, strict=True)
        },
    )


async def _upstream(image: Image, upstreams: Mapping[str, Source]) -> Cell:
    tag, repository = image.tag, image.repository
    if tag is None:
        return Cell(note="not asked: a digest is the same everywhere", exempt=True)

    async def ask() -> Cell:
        digest = await upstreams[repository.upstream].resolve(repository.path, tag)
        return Cell(digest, "" if digest else "upstream does not say", failed=digest is None)

    return await _answer(ask())


async def _target(image: Image, place: Images) -> Cell:
    if image.repository.upstream not in place.target.upstreams:
        return Cell(note=f"{image.repository.upstream} is not one of this target's upstreams", exempt=True)

    async def ask() -> Cell:
        # By its tag where it has one: that the digest is there does not say that the tag is.
        reference: Reference = image.tag or image.reference
        found = await place.images(place.target.repository_name(image.repository), [reference])
        return Cell(found[reference].digest) if reference in found else Cell(note="not there")

    return await _answer(ask())


async def _answer(asking: Awaitable[Cell]) -> Cell:
    try:
        async with asyncio.timeout(DEADLINE):
            return await asking
    except (Unknown, RepositoryMissing):
        return Cell(note="not there")
    except TimeoutError:
        return Cell(note=f"no answer within {DEADLINE:g} s", failed=True)
    except (MillpondError, OSError) as error:
        return Cell(note=str(error), failed=True)


def _excused(cell: Cell, target: Target) -> Cell:
    """An index is in ECR only with all of its images, so that a choice of platforms keeps it on disk."""
    if cell.digest or cell.failed or cell.exempt or target.platforms == "all":
        return cell
    return Cell(note="an index, of which this target has the chosen platforms only", exempt=True)


def _as_json(cell: Cell) -> dict[str, Any]:
    return {"digest": cell.digest, "note": cell.note, "failed": cell.failed}
