"""Everything that can go wrong with a pull, as one tree.

    MillpondError
    ├── RequestError              the client's request is at fault
    │   ├── NameInvalid           a repository name, or an upstream, that the grammar refuses
    │   ├── TagInvalid
    │   ├── DigestInvalid
    │   ├── PageInvalid           a page size that is not a number
    │   ├── RangeInvalid          the range starts beyond the blob; carries the size
    │   ├── Unsupported           anything but a pull
    │   ├── Unauthenticated       no credentials, or wrong ones
    │   ├── AccessDenied          whoever asks may not have this, by the operator's rules
    │   └── TooManyRequests       more than one client may have; carries the seconds to wait
    ├── Unknown                   whoever is authoritative says that it does not exist
    │   ├── NameUnknown
    │   ├── ManifestUnknown
    │   ├── BlobUnknown
    │   └── PathUnknown           not a path of the registry API
    ├── Denied                    upstream refuses Millpond's credentials, or their absence
    │   └── PolicyDenied          the operator's own rule forbids it; says nothing about upstream or the cache
    ├── UpstreamFailure           upstream could not answer; a cached tag may stand in
    │   ├── UpstreamUnreachable   connection, DNS, TLS, 5xx, or a breaker that is open
    │   ├── UpstreamTimeout       an answer that did not come in time
    │   └── UpstreamLimited       429; carries the seconds to wait
    ├── UpstreamInvalid           upstream answered, and the answer cannot be trusted
    └── DiskFailure               the disk cache cannot hold what is arriving

`proxy.edge.problems` has the one table from these to HTTP status and OCI error code.
Messages are written for the person who reads a failed pull: what happened, and what to do next.
"""


class MillpondError(Exception):
    """Base of every error that Millpond raises on purpose. `str(error)` is fit for a client to see."""


class RequestError(MillpondError):
    pass


class NameInvalid(RequestError):
    pass


class TagInvalid(RequestError):
    pass


class DigestInvalid(RequestError):
    pass


class PageInvalid(RequestError):
    pass


class RangeInvalid(RequestError):
    def __init__(self, size: int) -> None:
        super().__init__(f"the range starts at or beyond the end: the content has {size} bytes")
        self.size = size


class Unsupported(RequestError):
    pass


class Unauthenticated(RequestError):
    pass


class AccessDenied(RequestError):
    pass


class TooManyRequests(RequestError):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unknown(MillpondError):
    pass


class NameUnknown(Unknown):
    pass


class ManifestUnknown(Unknown):
    pass


class BlobUnknown(Unknown):
    pass


class PathUnknown(Unknown):
    pass


class Denied(MillpondError):
    pass


class PolicyDenied(Denied):
    pass


class UpstreamFailure(MillpondError):
    pass


class UpstreamUnreachable(UpstreamFailure):
    pass


class UpstreamTimeout(UpstreamFailure):
    pass


class UpstreamLimited(UpstreamFailure):
    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UpstreamInvalid(MillpondError):
    pass


class DiskFailure(MillpondError):
    pass
