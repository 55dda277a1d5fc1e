"""What an operator asks of the ECR tier: its state, another try, a push of given images, a comparison."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, get_args

from proxy.ecr.compare import Places, Verdict, compare
from proxy.ecr.job import job_key
from proxy.ecr.supply import Supply
from proxy.ecr.tier import EcrTier, JobStatus
from proxy.oci.errors import MillpondError, RequestError
from proxy.oci.names import Image, Repository, parse_image

# Images of one request that are resolved and followed at a time; each is a manifest from upstream and a few jobs.
IMAGES_AT_ONCE: Final = 8
# Between two looks at a job: what a person sees as moving.
LOOK_EVERY: Final = 0.25
# Seconds to a job's next try beyond which nobody sits and waits for it; it goes on by itself.
PATIENCE: Final = 10.0

Row = dict[str, Any]


class Desk:
    """Fulfils `proxy.admin.ecr.EcrDesk`."""

    def __init__(
        self,
        tier: EcrTier,
        supply: Supply,
        places: Places,
        *,
        locate: Callable[[str], Repository],
        on_disk: Callable[[], Iterable[Image]],
    ) -> None:
        """`locate` knows what a repository's name means here; `on_disk` are the images to compare when none is
        named."""
        self.tier = tier
        self._supply = supply
        self._places = places
        self._locate = locate
        self._on_disk = on_disk

    def status(self) -> Row:
        return asdict(self.tier.status())

    def targets(self) -> list[Row]:
        return [asdict(target) for target in self.tier.targets()]

    def retry(self, target: str | None, image: str | None) -> int:
        """`image` without a tag or digest is all of its repository's."""
        names = [place.target.name for place in self._places.targets]
        if target is not None and target not in names:
            raise RequestError(f"there is no ECR target {target[:100]!r}; one of: {', '.join(names)}")
        if image is not None:
            parsed = parse_image(image, self._locate)
            whole = ":" not in image.rpartition("/")[2] and "@" not in image
            image = str(parsed.repository) if whole else str(replace(parsed, tag=None) if parsed.digest else parsed)
        return self.tier.retry(target, image)

    def sync(self, images: Sequence[str]) -> AsyncGenerator[Row, None]:
        return self._sync(self._parsed(images))

    def verify(self, images: Sequence[str]) -> AsyncGenerator[Row, None]:
        return self._verify(self._parsed(images) if images else list(self._on_disk()))

    def _parsed(self, images: Sequence[str]) -> list[Image]:
        return list(dict.fromkeys(parse_image(image, self._locate) for image in images))

    async def _verify(self, images: Sequence[Image]) -> AsyncGenerator[Row, None]:
        verdicts: Counter[Verdict] = Counter()
        rows = compare(images, self._places)
        try:
            async for row in rows:
                verdicts[row.verdict] += 1
                yield row.as_json()
        finally:
            await rows.aclose()
        yield {"summary": {verdict: verdicts[verdict] for verdict in get_args(Verdict)}}

    async def _sync(self, images: Sequence[Image]) -> AsyncGenerator[Row, None]:
        # Without a bound: a few rows a second at most, until whoever does not read is let go.
        rows: asyncio.Queue[Row | None] = asyncio.Queue()
        waiting = iter(images)
        total: Counter[str] = Counter()

        async def one_after_the_other() -> None:
            for image in waiting:
                total.update(await self._one(image, rows.put_nowait))

        async def all_of_them() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(IMAGES_AT_ONCE):
                        group.create_task(one_after_the_other())
                rows.put_nowait({"summary": {"done": total["done"], "failed": total["failed"]}})
            finally:
                rows.put_nowait(None)

        work = asyncio.create_task(all_of_them())
        try:
            while (row := await rows.get()) is not None:
                yield row
            await work
        finally:
            work.cancel()
            await asyncio.wait({work})

    async def _one(self, image: Image, tell: Callable[[Row], None]) -> dict[str, int]:
        """Push one image and report until it is in all targets, or is known not to get there; how many are `done` and
        how many `failed`."""
        try:
            manifest = await self._supply.manifest(image.repository, image.reference, spare=False)
        except MillpondError as error:
            tell(_row(image, None, "failed", str(error)))
            return {"failed": 1}
        due = {name: job_key(name, image.repository, manifest.digest) for name in self._takers(image.repository)}
        if not due:
            reason = f"no target takes images of {image.repository.upstream}; add it to the upstreams of one"
            tell(_row(image, None, "failed", reason))
            return {"failed": 1}
        begun = self.tier.push(image.repository, manifest.digest, image.tag)
        for name, key in due.items():
            if key not in begun:
                tell(_row(image, name, "failed", "its queue is full; ask again when it is shorter"))
        states = await asyncio.gather(*(self._follow(image, key, tell) for key in begun))
        done = states.count("done")
        return {"done": done, "failed": len(due) - done}

    def _takers(self, repository: Repository) -> list[str]:
        targets = [place.target for place in self._places.targets]
        return [target.name for target in targets if repository.upstream in target.upstreams]

    async def _follow(self, image: Image, key: str, tell: Callable[[Row], None]) -> str:
        last = None
        while (job := self.tier.job(key)) is not None:
            row = _progress(image, job)
            if row != last:
                tell(row)
                last = row
            if row["state"] in ("done", "rejected", "waiting"):
                return str(row["state"])
            await asyncio.sleep(LOOK_EVERY)
        tell(_row(image, key.partition(" ")[0], "failed", "it was put aside meanwhile; ask again"))
        return "failed"


def _progress(image: Image, job: JobStatus) -> Row:
    reason = job.reason or job.note
    if job.next_try is None or job.next_try < PATIENCE:
        return _row(image, job.target, job.state, reason, (job.bytes_done, job.bytes_total))
    reason = reason or "the target is refused at the moment; `millpond ecr status` says why"
    return _row(image, job.target, "waiting", reason, (job.bytes_done, job.bytes_total))


def _row(image: Image, target: str | None, state: str, reason: str, progress: tuple[int, int] = (0, 0)) -> Row:
    return {
        "image": str(image),
        "target": target,
        "state": state,
        "reason": reason,
        "bytes_done": progress[0],
        "bytes_total": progress[1],
    }
