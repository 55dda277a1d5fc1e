"""Names of the distribution specification: repositories, tags, and how a client names an upstream."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.oci.digest import Digest
from proxy.oci.errors import NameInvalid, TagInvalid

# distribution-spec 1.1.1. Both patterns match in linear time: no two neighbouring repeats share a character.
_NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*\Z")
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\Z")

MAX_NAME: Final = 255  # what common clients accept for host and name together

DOCKER_HUB: Final = "docker.io"
DEFAULT_TAG: Final = "latest"  # what every client takes where an image name has neither tag nor digest


@dataclass(frozen=True, slots=True, order=True)
class Repository:
    """One repository of one upstream: `upstream` is the configured name, `path` is the name over there."""

    upstream: str
    path: str

    def __str__(self) -> str:
        return f"{self.upstream}/{self.path}"

    @classmethod
    def parse(cls, upstream: str, path: str) -> Repository:
        """Validate `path`, and expand Docker Hub's short names (`alpine` is `library/alpine`).

        Raises:
            NameInvalid: the path breaks the grammar of the distribution specification or its length.
        """
        full = f"library/{path}" if upstream == DOCKER_HUB and "/" not in path else path
        # What is checked is what is kept: a repository must be readable again from its own name.
        if len(full) > MAX_NAME or not _NAME.match(full):
            raise NameInvalid(
                f"{path[:160]!r} is not a repository name: expected at most {MAX_NAME} characters, lower-case letters, "
                "digits and single separators (. _ __ -) in parts joined by /"
            )
        return cls(upstream, full)


class Tag(str):
    """A tag that has been validated."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Tag:
        """Raises TagInvalid when `text` breaks the grammar of the distribution specification."""
        if not _TAG.match(text):
            raise TagInvalid(
                f"{text[:160]!r} is not a tag: expected up to 128 letters, digits, underscores, dots and dashes, "
                "not starting with a dot or dash"
            )
        return cls(text)


Reference = Tag | Digest


def parse_reference(text: str) -> Reference:
    """A manifest's reference as it stands in a URL: a digest if it has a colon, else a tag.

    Raises:
        DigestInvalid, TagInvalid: it is neither.
    """
    return Digest.parse(text) if ":" in text else Tag.parse(text)


@dataclass(frozen=True, slots=True)
class Image:
    """An image as a person names it. One of `tag` and `digest` is there, or both: that digest, under that tag."""

    repository: Repository
    tag: Tag | None
    digest: Digest | None

    @property
    def reference(self) -> Reference:
        """What to ask for."""
        reference = self.digest or self.tag
        assert reference is not None, "an image has a tag or a digest"
        return reference

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"


def parse_image(text: str, locate: Callable[[str], Repository]) -> Image:
    """Read `nginx`, `docker.io/library/nginx:1.27` or `ghcr.io/org/app@sha256:…`. `locate` knows the upstreams.

    Raises:
        TagInvalid, DigestInvalid: what follows the name is neither.
        NameUnknown, NameInvalid: as `locate`.
    """
    name, at, digest = text.strip().partition("@")
    before, _, last = name.rpartition("/")  # a colon before the last slash is a port
    last, colon, tag = last.partition(":")
    if not at and not colon:
        tag = DEFAULT_TAG
    return Image(
        locate(f"{before}/{last}" if before else last),
        Tag.parse(tag) if colon or tag else None,
        Digest.parse(digest) if at else None,
    )


def looks_like_host(component: str) -> bool:
    """Docker's rule: the first part of an image name is a registry if it has a dot or a colon, or is localhost."""
    return "." in component or ":" in component or component == "localhost"
