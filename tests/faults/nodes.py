"""Nodes that pull images as containerd does, from one mirror, and the bad weather that an upstream may have."""

from __future__ import annotations

import http.client
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.support import wire
from tests.support.faults import Answer, Request, cut, refuse
from tests.support.images import Blob, Manifest
from tests.support.pulls import Reply, get

# containerd's defaults (protocol.md, section 2): layers at a time, and how often it sends one request to a host, at
# once and whatever Retry-After says, that answers so and is the last one it knows. A 502, a connection that fails and
# a body that breaks end the pull.
_LAYERS_AT_A_TIME: Final = 3
_ATTEMPTS: Final = 5
_TRIED_AGAIN: Final = frozenset({408, 429, 500, 503, 504})


class PullFailed(Exception):
    """What a user sees as ErrImagePull."""


class Node:
    """One node, whose only host is `url`. `again` counts the requests that it had to send more than once."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.again = 0

    def pull(self, repository: str, tag: str, image: Manifest, platform: str) -> None:
        """HEAD the tag, index, manifest, config, then three layers at a time; each byte is compared with `image`.

        Raises:
            PullFailed: a part did not come, or is not what its digest says.
        """
        resolved = self._ask("HEAD", repository, "manifests", tag).headers.get("docker-content-digest")
        if resolved != image.digest:
            raise PullFailed(f"{repository}:{tag} is resolved to {resolved}")
        child = next(part for part in image.children if part.platform == platform)
        for manifest in (image, child):
            if self._ask("GET", repository, "manifests", manifest.digest).body != manifest.body:
                raise PullFailed(f"{manifest.digest} of {repository} has other bytes")
        config, *layers = child.blobs
        self._take(repository, config)
        with ThreadPoolExecutor(_LAYERS_AT_A_TIME) as pool:
            list(pool.map(lambda layer: self._take(repository, layer), layers))

    def _take(self, repository: str, blob: Blob) -> None:
        reply = self._ask("GET", repository, "blobs", blob.digest)
        if not reply.complete or reply.digest != blob.digest:
            raise PullFailed(f"{blob.digest} of {repository}: {reply.size} of {blob.size} bytes, {reply.digest}")

    def _ask(self, method: str, repository: str, noun: str, item: str) -> Reply:
        what = f"{method} {repository}/{noun}/{item}"
        said = ""
        for attempt in range(_ATTEMPTS):
            self.again += attempt > 0
            try:
                reply = get(f"{self._url}/v2/{repository}/{noun}/{item}?ns=docker.io", method=method)
            except (OSError, http.client.HTTPException) as error:
                raise PullFailed(f"{what}: {error!r}") from error
            if reply.status == 200:
                return reply
            said = f"{what}: {reply.status} {reply.text}"
            if reply.status not in _TRIED_AGAIN:
                break
        raise PullFailed(said)


class Weather:
    """A `Fault` that lets a share of all requests fail: hung up on, cut anywhere by reset or by a clean end, or 5xx.

    Which ones is decided by the seed, the path, and how often that has been asked for: whatever the order in which
    clients come, a run meets the same weather again.
    """

    def __init__(self, seed: str, share: float) -> None:
        self._seed = seed
        self._share = share
        self._asked: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()

    @property
    def requests(self) -> int:
        return sum(self._asked.values())

    @property
    def failures(self) -> int:
        return sum(self.happened.values())

    def __call__(self, request: Request, answer: Answer) -> Answer:
        key = f"{request.method} {request.path}"
        self._asked[key] += 1
        dice = random.Random(f"{self._seed} {key} {self._asked[key]}")
        if dice.random() >= self._share:
            return answer
        kind = dice.choice(("hang up", "reset", "close", "5xx") if request.method == "GET" else ("hang up", "5xx"))
        self.happened[kind] += 1
        if kind == "hang up":
            raise ConnectionResetError("the connection ends without a word")
        if kind == "5xx":
            return refuse(dice.choice((500, 502, 503, 504)))(request, answer)
        start, stop = wire.range_of(request.headers.get("range", ""), len(answer.body)) or (0, len(answer.body))
        at = dice.randrange(max(1, stop - start))
        return cut(at, "reset" if kind == "reset" else "close")(request, answer)
