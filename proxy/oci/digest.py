"""Content digests: `algorithm:hex`, the identity of everything that Millpond stores."""

from __future__ import annotations

import hashlib
import re
from typing import Final, Protocol

from proxy.oci.errors import DigestInvalid

# image-spec, "Registered Algorithms". Others may be well-formed, but cannot be verified, so they are not served.
HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}

_HEX = re.compile(r"[a-f0-9]+\Z")


class Hasher(Protocol):
    """A running hash, as hashlib makes them."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...
    def copy(self) -> Hasher: ...


class Digest(str):
    """A digest that has been validated: a string by nature, so that it is a key, a name and JSON as it is."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Validate `text`; lower case only, as the specification has it.

        Raises:
            DigestInvalid: unknown algorithm, wrong length, or anything but lower-case hexadecimal digits.
        """
        algorithm, _, encoded = text.partition(":")
        if HEX_LENGTH.get(algorithm) != len(encoded) or not _HEX.match(encoded):
            raise DigestInvalid(
                f"{text[:160]!r} is not a digest that can be verified: "
                "expected sha256: and 64, or sha512: and 128 lower-case hexadecimal digits"
            )
        return cls(text)

    @classmethod
    def of(cls, body: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of `body`. Hashes on the calling thread: for manifests, not for blobs."""
        return cls(f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]

    def hasher(self) -> Hasher:
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, hasher: Hasher) -> bool:
        """Whether `hasher` has seen exactly the bytes that this digest names."""
        return hasher.hexdigest() == self.hex
