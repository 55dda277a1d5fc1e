"""From pulls to jobs: what a client was just served is to stand in every target."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from proxy.ecr.queue import Queue
from proxy.ecr.supply import Pulled, Supply
from proxy.ecr.target import Target
from proxy.observe.events import Served
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError
from proxy.oci.names import Repository, Tag, parse_reference

# Tags that were looked at lately, and children of indexes that were served lately: some megabytes at most.
MAX_TAGS: Final = 10_000
MAX_CHILDREN: Final = 10_000
# A client that asks what a tag is, and then pulls by digest, does so at once; later it is another client with its own
# reason for a digest.
TAG_SECONDS: Final = 600.0
# Of one index; its further platforms would be images of their own. Real ones have ten or so.
_CHILDREN_OF_ONE: Final = 200
# Indexes of which one image is a child: the moved tags of a repository share platforms that have not changed.
_INDEXES_OF_ONE: Final = 8


class Intake:
    """Cheap and synchronous: it runs behind every response."""

    def __init__(self, targets: Sequence[Target], supply: Supply, queue: Queue, clock: Callable[[], float]) -> None:
        self._targets = targets
        self._supply = supply
        self._queue = queue
        self._clock = clock
        self._tags: OrderedDict[tuple[Repository, Tag], tuple[Digest, float]] = OrderedDict()  # what each is now
        self._tagged: dict[tuple[Repository, Digest], set[Tag]] = {}  # the same, the other way round
        self._indexes: OrderedDict[tuple[Repository, Digest], list[Digest]] = OrderedDict()  # by their children

    def observe(self, served: Served) -> None:
        """Whatever was served; only manifests are of interest."""
        if served.kind != "manifests" or served.status != 200 or served.outcome != "complete":
            return
        try:
            digest, reference = Digest.parse(served.digest), parse_reference(served.item)
        except MillpondError:
            return
        repository = Repository(served.upstream, served.repository)
        # Where a tag pointed when upstream was last heard of, or points in one target, is no news: it must not move a
        # newer one back.
        tag = reference if isinstance(reference, Tag) and served.confirmed else None
        if tag is not None:
            self._remember(repository, tag, digest)
        if served.method == "GET":
            self._pulled(repository, digest, tag)
        elif tag is not None:
            self._looked_at(repository, digest, tag)

    def add(self, repository: Repository, digest: Digest, tag: Tag | None, *, at_once: bool) -> list[str]:
        """One image into all targets that its upstream's go to. Returns the keys of the jobs."""
        added = []
        for target in self._for(repository):
            known = self._queue.get(target.name, repository, digest)
            job = self._queue.add(target.name, repository, digest, tag, at_once=at_once)
            if job is None:
                continue
            added.append(job.key)
            if known is None and digest.algorithm != "sha256":
                self._queue.reject(job, f"its digest is {digest.algorithm}; ECR takes sha256 digests only")
        return added

    def lacks(self, image: Pulled) -> bool:
        """Whether a target that the image goes to has no note of it."""
        return any(self._wants(target, image) for target in self._for(image.repository))

    def restore(self, image: Pulled, digest: Digest) -> None:
        """Have `image`, whose name stands for `digest`, pushed to each target that has no note of it."""
        for target in self._for(image.repository):
            if self._wants(target, image):
                self._queue.add(target.name, image.repository, digest, image.tag)
                for child in self._children(image) if digest == image.digest else ():
                    self._queue.add(target.name, image.repository, digest, child=child, extends=True)

    def _wants(self, target: Target, image: Pulled) -> bool:
        job = self._queue.get(target.name, image.repository, image.digest)
        if job is not None and (image.tag is None or image.tag in job.tags | job.clashed):
            return not job.children.issuperset(self._children(image))
        owner = self._queue.owner(target.name, image.repository, image.tag) if image.tag else None
        return owner is None or max(owner.added, owner.checked) < image.moment

    def _children(self, image: Pulled) -> tuple[Digest, ...]:
        """Those that count as pulled: not where they may be cached because a target gets all of them."""
        by_pulls_only = all(target.platforms == "pulled" for target in self._for(image.repository))
        return image.children if by_pulls_only else ()

    def _pulled(self, repository: Repository, digest: Digest, tag: Tag | None) -> None:
        indexes = [] if tag is not None else self._indexes.get((repository, digest), [])
        for index in indexes:
            for target in self._for(repository):
                self._queue.add(target.name, repository, index, child=digest, extends=target.platforms == "pulled")
        if not indexes:
            tags = [tag] if tag is not None else self._tags_of(repository, digest)
            for each in tags or [None]:
                self.add(repository, digest, each, at_once=False)
        self._learn(repository, digest)

    def _looked_at(self, repository: Repository, digest: Digest, tag: Tag) -> None:
        """A client that has the image asks for no more than its tag, which may have moved here."""
        for target in self._for(repository):
            if self._queue.get(target.name, repository, digest) is not None:
                self._queue.add(target.name, repository, digest, tag)

    def _for(self, repository: Repository) -> Iterator[Target]:
        return (target for target in self._targets if repository.upstream in target.upstreams)

    def _remember(self, repository: Repository, tag: Tag, digest: Digest) -> None:
        self._forget(repository, tag)
        self._tags[repository, tag] = digest, self._clock()
        self._tagged.setdefault((repository, digest), set()).add(tag)
        if len(self._tags) > MAX_TAGS:
            self._forget(*next(iter(self._tags)))

    def _forget(self, repository: Repository, tag: Tag) -> None:
        digest, _ = self._tags.pop((repository, tag), (None, 0.0))
        if digest is not None:
            tags = self._tagged[repository, digest]
            tags.discard(tag)
            if not tags:
                del self._tagged[repository, digest]

    def _tags_of(self, repository: Repository, digest: Digest) -> list[Tag | None]:
        since = self._clock() - TAG_SECONDS
        tags = self._tagged.get((repository, digest), ())
        return [tag for tag in sorted(tags) if self._tags[repository, tag][1] >= since]

    def _learn(self, repository: Repository, digest: Digest) -> None:
        """Which images the manifest names, if it is an index."""
        manifest = self._supply.known(repository, digest)
        if manifest is None or not manifest.is_index:
            return
        for child in manifest.children[:_CHILDREN_OF_ONE]:
            indexes = self._indexes.setdefault((repository, child.digest), [])
            if digest in indexes:
                indexes.remove(digest)
            indexes.append(digest)
            del indexes[:-_INDEXES_OF_ONE]
            self._indexes.move_to_end((repository, child.digest))
        while len(self._indexes) > MAX_CHILDREN:
            self._indexes.popitem(last=False)
