"""What ECR may say to a call, by name. The tree:

EcrError                    base; `str(error)` says what happened, and what to do where somebody can
├── Passing                 may work later: tried again with growing pauses
│   ├── Throttled           too many calls; nothing else is wrong
│   └── Unreachable         network, deadline, or a failure inside AWS
├── Refused                 not allowed; the same call of the whole target will fare no better
│   └── NoCredentials       Millpond has found none, here and now
├── KeyRefused              one repository's KMS key cannot be used; the target's others are none the worse for it
├── Rejected                for good: the content itself is not taken; tried again on demand only
└── outcomes that whoever calls goes on from
    ├── RepositoryMissing
    ├── LayersMissing       an image whose layers are not there (yet)
    ├── ChildrenMissing     an index whose images are not there (yet)
    ├── UploadLost          the upload has expired: begin a new one
    ├── PartRefused         carries the last byte that ECR has
    ├── TagTaken            the repository is immutable and has this tag for another image
    ├── ImageMissing        no image to tell the scan of
    ├── PolicyMissing       the repository has no such policy
    └── ScanMissing         an image that has not been scanned
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.oci.errors import MillpondError


class EcrError(MillpondError):
    """Base of all that an ECR call may raise."""


class Passing(EcrError):
    pass


class Throttled(Passing):
    pass


class Unreachable(Passing):
    pass


class Refused(EcrError):
    pass


class NoCredentials(Refused):
    pass


class KeyRefused(EcrError):
    pass


class Rejected(EcrError):
    pass


class ServiceError(EcrError):
    def __init__(self, code: str, message: str, fields: Mapping[str, Any]) -> None:
        """`code` is AWS's name of it, `fields` are its modelled members."""
        super().__init__(message)
        self.code = code
        self.fields = fields


class RepositoryMissing(EcrError):
    pass


class LayersMissing(EcrError):
    pass


class ChildrenMissing(EcrError):
    pass


class UploadLost(EcrError):
    pass


class PartRefused(EcrError):
    def __init__(self, message: str, last_byte: int) -> None:
        """`last_byte` is the last one that ECR has, -1 for none."""
        super().__init__(message)
        self.last_byte = last_byte


class TagTaken(EcrError):
    pass


class ImageMissing(EcrError):
    pass


class PolicyMissing(EcrError):
    pass


class ScanMissing(EcrError):
    pass
