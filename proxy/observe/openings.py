"""Pulls that may have more to come, and which of them a request belongs to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from proxy.observe.events import Served
from proxy.observe.pull import HEAD, MANIFEST, Pull

# Pulls that may have more to come. A thousand nodes pull a few images each; beyond it the oldest count as done.
MAX_OPEN: Final = 4096
# Of one client in one repository. Several tags may be pulled at a time, and behind one address there may be many.
MAX_OPEN_ALIKE: Final = 8

_Client = tuple[str, str, str, str]  # address, user, upstream, repository

Names = Callable[[str, str, str], Collection[str]]
"""The digests that a manifest names: of an upstream, its repository, and the manifest's digest."""


class OpenPulls:
    """Iterating yields them, oldest first. They are a bounded number, whatever clients ask for."""

    def __init__(self, names: Names, finished: Callable[[Pull], None]) -> None:
        """`finished` is told of each pull that is done, whether it has ended or others took its place."""
        self._names = names
        self._finished = finished
        self._clients: dict[Pull, _Client] = {}
        self._alike: dict[_Client, list[Pull]] = {}  # the same, by client

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Pull]:
        return iter(self._clients)

    def __contains__(self, pull: object) -> bool:
        return pull in self._clients

    def place(self, served: Served, began: float) -> Pull:
        """The pull that the request belongs to; a new one, since then, where there is none."""
        client = (served.client, served.user, served.upstream, served.repository)
        alike = self._alike.get(client, ())
        pull = self._find(alike, served) or self._begin(client, alike, began)
        pull.ask(served)
        return pull

    def finish(self, pull: Pull) -> None:
        """Nothing more belongs to it."""
        client = self._clients.pop(pull)
        alike = self._alike[client]
        alike.remove(pull)
        if not alike:
            del self._alike[client]
        self._finished(pull)

    def _find(self, alike: Sequence[Pull], served: Served) -> Pull | None:
        item = served.item
        if served.kind == "manifests":
            stage = HEAD if served.method == "HEAD" else MANIFEST
            again = False
            for pull in alike:
                if item in (pull.tag, pull.digest):
                    if pull.stage < stage or (pull.failures and pull.failed(item)):
                        return pull
                    again = True
            if again or ":" not in item:
                return None  # the same once more is another pull, and so is another tag
        naming = [pull for pull in alike if self._is_named(item, pull)]
        if not naming and served.kind == "blobs":
            naming = list(reversed(alike))  # nothing says whose it is: the latest is the likeliest
        # Behind one address several clients may pull the same: a part goes to the pull that has not had it yet.
        return next((pull for pull in naming if not pull.asked_for(item)), naming[-1] if naming else None)

    def _is_named(self, item: str, pull: Pull) -> bool:
        return any(item in self._names(pull.upstream, pull.repository, digest) for digest in pull.manifests)

    def _begin(self, client: _Client, alike: Sequence[Pull], began: float) -> Pull:
        if len(alike) >= MAX_OPEN_ALIKE:
            self.finish(alike[0])
        elif len(self._clients) >= MAX_OPEN:
            self.finish(next(iter(self._clients)))
        pull = Pull(began, *client)
        self._clients[pull] = client
        self._alike.setdefault(client, []).append(pull)
        return pull
