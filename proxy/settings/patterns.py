"""Patterns of images in rules: they have to begin as an image's full name does, or no image is ever like them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from proxy.oci.names import DOCKER_HUB
from proxy.settings.base import Misfit

_WILD: Final = frozenset("*?[")


def patterns_fit(path: tuple[str | int, ...], patterns: Sequence[str], names: Mapping[str, str]) -> None:
    """Raises Misfit for a pattern that no image can be like. `path` is the list's, from the top; `names` are all names
    of the upstreams, each with the one that it means."""
    for index, pattern in enumerate(patterns):
        upstream, _, name = pattern.partition("/")
        if _WILD & set(upstream):
            continue
        if upstream not in names:
            known = ", ".join(sorted(set(names.values())))
            message = (
                f"no image is like it, as it begins with no upstream; write docker.io/library/* or the like: {known}"
            )
            raise Misfit((*path, index), pattern, message)
        if names[upstream] != upstream:
            raise Misfit(
                (*path, index), pattern, f"an image's full name is another one; write {names[upstream]}/{name}"
            )
        if upstream == DOCKER_HUB and "/" not in name and not _WILD & set(name):
            message = f"an official image's full name is another one; write {DOCKER_HUB}/library/{name}"
            raise Misfit((*path, index), pattern, message)
