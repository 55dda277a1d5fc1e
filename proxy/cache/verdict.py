"""What hashing a blob's file has shown."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """`DAMAGED` and `MISSING` are forgotten by the cache and fetched again when they are asked for."""

    INTACT = "intact"
    DAMAGED = "damaged"  # it does not hash to its name, or cannot be read
    MISSING = "missing"  # the index had it, the disk has not
    UNREADABLE = "unreadable"  # this process lacks what it takes to read any file: nothing is known, it stays
    GONE = "gone"  # evicted, or pulled anew, while it was being hashed
