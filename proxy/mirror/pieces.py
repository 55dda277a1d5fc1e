"""One file of a client's configuration: what it holds alone, and how it joins what somebody else has written there.

Each kind can be taken out again from a file that has been changed meanwhile; `without` does that.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

Undo = Mapping[str, Any]  # JSON; what `without` needs to know

# A file with more lines that could be a table than this is not a registry's configuration.
_MAX_PLACES: Final = 64


class Refused(Exception):
    """This cannot be done safely; the message says why, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A file's new content, and how to take our part out of it. Without `undo`, all of it was there already."""

    data: bytes
    undo: Undo | None


class Piece(Protocol):
    """`path` is relative to the client's directory."""

    @property
    def path(self) -> str: ...

    @property
    def printed(self) -> str | None:
        """The file as it is where nothing was before; None for one that is not for people to read."""

    def into(self, base: bytes | None) -> Merged:
        """The content that `base`, what somebody else has there, gets.

        Raises:
            Refused: they do not go together.
        """


@dataclass(frozen=True, slots=True)
class Whole:
    """A file that is ours alone. What was there is replaced, or with `instead` refused, with that for a message."""

    path: str
    data: bytes
    printed: str | None = None
    instead: str | None = None

    def into(self, base: bytes | None) -> Merged:
        if base == self.data:
            return Merged(base, None)
        if base is not None and self.instead is not None:
            raise Refused(self.instead)
        return Merged(self.data, {"kind": "text", "cuts": []})


@dataclass(frozen=True, slots=True)
class Tables:
    """TOML: `tables` go before the first or after the last table of a file; `printed` is a file of nothing else.

    The result is parsed, and must mean what was there together with `tables`, whatever the text looks like.
    """

    path: str
    printed: str
    tables: str
    place: Literal["first", "last"]
    joint: str = "# Millpond first; what follows stays as the way around it.\n"

    def into(self, base: bytes | None) -> Merged:
        if base is None or not base.strip():
            return Merged(self.printed.encode(), {"kind": "text", "cuts": [self.printed, self.tables]})
        text = _text(base)
        try:
            theirs = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Refused(f"what is there is no TOML ({error}); repair it or move it away") from None
        ours = tomllib.loads(self.tables)
        if self._holds(theirs, ours):
            return Merged(base, None)
        wanted = self._union(theirs, ours)
        if wanted is not None:
            for place in _places(text) if self.place == "first" else [len(text)]:
                inserted = self._inserted(text, place)
                merged = text[:place] + inserted + text[place:]
                if self._means(merged, wanted, ours):
                    cuts = [inserted, inserted.strip("\n") + "\n", self.tables]
                    return Merged(merged.encode(), {"kind": "text", "cuts": cuts})
        raise Refused(f"what is there configures the same in another way; write this into it by hand:\n{self.tables}")

    def _inserted(self, text: str, place: int) -> str:
        own_line = "" if place == 0 or text[place - 1] == "\n" else "\n"
        return f"{own_line}{self.joint}{self.tables}\n" if self.place == "first" else f"{own_line}\n{self.tables}"

    def _means(self, merged: str, wanted: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
        try:
            document = tomllib.loads(merged)
        except tomllib.TOMLDecodeError:
            return False
        return document == wanted and self._is_first(document, ours)

    def _is_first(self, document: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
        """Where the order counts, as in hosts.toml, it is the order in which the tables stand in the file."""
        return self.place == "last" or all(next(iter(document[key])) in table for key, table in ours.items())

    def _holds(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
        for key, mine in ours.items():
            there = theirs.get(key)
            if isinstance(mine, list):
                if not isinstance(there, list) or any(item not in there for item in mine):
                    return False
            elif not isinstance(there, dict) or any(there.get(name) != table for name, table in mine.items()):
                return False
        return self._is_first(theirs, ours)

    def _union(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Both together; None where both say something of the same registry."""
        merged = dict(theirs)
        for key, mine in ours.items():
            there = theirs.get(key, [] if isinstance(mine, list) else {})
            if isinstance(mine, list) and isinstance(there, list):
                if set(map(prefix, mine)) & set(map(prefix, there)):
                    return None
                merged[key] = [*there, *mine]
            elif isinstance(mine, dict) and isinstance(there, dict) and not mine.keys() & there.keys():
                merged[key] = {**there, **mine}
            else:
                return None
        return merged


@dataclass(frozen=True, slots=True)
class Lists:
    """JSON: an object whose `lists` have ours at their front. Other keys and other entries stay."""

    path: str
    lists: Mapping[str, list[str]]

    @property
    def printed(self) -> str:
        return _json(self.lists)

    def into(self, base: bytes | None) -> Merged:
        theirs = _object(base or b"")
        if theirs is None:
            raise Refused("what is there is not one JSON object; repair it or move it away")
        added: dict[str, list[str]] = {}
        for key, mine in self.lists.items():
            there = theirs.get(key, [])
            if not isinstance(there, list) or not all(isinstance(entry, str) for entry in there):
                raise Refused(f"its {key} is not a list of texts; repair it")
            if missing := [entry for entry in mine if entry not in there]:
                added[key] = missing
        if not added:
            return Merged(base or b"", None)
        merged = {**theirs, **{key: [*mine, *theirs.get(key, [])] for key, mine in added.items()}}
        created = [key for key in added if key not in theirs]
        return Merged(_json(merged).encode(), {"kind": "lists", "added": added, "created": created})


def without(data: bytes, undo: Undo) -> bytes | None:
    """`data`, which somebody has changed since, without our part; None where it is not to be found any more.

    Empty where nothing would be left.
    """
    if undo["kind"] == "text":
        text = data.decode(errors="surrogateescape")
        # One that begins by ending a line takes that end with it: only where no other line has come behind it.
        cuts = (cut for cut in undo["cuts"] if not cut.startswith("\n") or text.endswith(cut))
        cut = next((cut for cut in cuts if text.count(cut) == 1), None)
        rest = None if cut is None else text.replace(cut, "")
        return None if rest is None else (rest if rest.strip() else "").encode(errors="surrogateescape")
    document = _object(data)
    if document is None:
        return None
    for key, added in undo["added"].items():
        there = document.get(key)
        if isinstance(there, list):
            document[key] = [entry for entry in there if entry not in added]
            if not document[key] and key in undo["created"]:
                del document[key]
    return _json(document).encode() if document else b""


def same(one: bytes, other: bytes, undo: Undo) -> bool:
    """Whether both mean the same to their reader, as far as the kind tells."""
    return one == other or (undo["kind"] == "lists" and _object(one) is not None and _object(one) == _object(other))


def prefix(registry: Any) -> str:
    """What a `[[registry]]` of registries.conf is about."""
    return str(registry.get("prefix") or registry.get("location")) if isinstance(registry, dict) else ""


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refused("what is there is not UTF-8; repair it or move it away") from None


def _places(text: str) -> list[int]:
    """Where a first table may begin: before a line that looks like one, or at the end. The parser has the last word."""
    places, position = [], 0
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("["):
            places.append(position)
        position += len(line)
    return [*places[:_MAX_PLACES], len(text)]


def _object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in `data`; an empty file is an empty one, as dockerd sees it. None for anything else."""
    if not data.strip():
        return {}
    try:
        document = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that stands there twice would be lost by writing it anew."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("the same key twice")
    return dict(pairs)


def _json(document: Mapping[str, Any]) -> str:
    """A line for each key, and for a list of texts no more than that."""
    lines = []
    for key, value in document.items():
        flat = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        text = json.dumps(value, ensure_ascii=False, indent=None if flat else 2)
        lines.append(f"  {json.dumps(key, ensure_ascii=False)}: " + text.replace("\n", "\n  "))
    return "{\n" + ",\n".join(lines) + "\n}\n"
