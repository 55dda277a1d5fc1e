"""What differs between two configurations, files that they name included, key by key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.settings.base import Section
from proxy.settings.problems import Path as KeyPath

if TYPE_CHECKING:
    from proxy.settings.model import Settings

_ABSENT: Final = object()


def keyed(settings: Settings) -> dict[KeyPath, object]:
    """Every key's value by its path, fit for comparing only: where a key names a file, what the file holds is part of
    it. A section that is there has a value of its own, so that one that comes or goes is told as one. Blocks."""
    return dict(_keyed((), settings))


def changes(old: Mapping[KeyPath, object], new: Mapping[KeyPath, object]) -> list[KeyPath]:
    """The paths of what differs, in the order of the configuration; nothing below one that is itself among them."""
    keys = list(dict.fromkeys((*new, *old)))
    differ = {path for path in keys if old.get(path, _ABSENT) != new.get(path, _ABSENT)}
    return [path for path in keys if path in differ and not any(path[:end] in differ for end in range(1, len(path)))]


def _keyed(path: KeyPath, value: object) -> Iterator[tuple[KeyPath, object]]:
    if isinstance(value, Section):
        yield path, True
        for name in type(value).model_fields:
            held = getattr(value, name)
            if isinstance(held, Path) and name.endswith("_file"):
                # What a file of a secret holds is the value of the secret's own key.
                own = name.removesuffix("_file") in type(value).model_fields
                yield (*path, name), held if own else (held, _content(held))
            else:
                yield from _keyed((*path, name), held)
    elif isinstance(value, Mapping) and all(isinstance(item, Section) for item in value.values()):
        for name, item in value.items():
            yield from _keyed((*path, name), item)
    elif isinstance(value, tuple) and value and all(isinstance(item, Section) for item in value):
        for number, item in enumerate(value):
            yield from _keyed((*path, number), item)
    else:
        yield path, value


def _content(file: Path) -> bytes | None:
    """A hash of what the file holds: it may be a key. None where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return None
