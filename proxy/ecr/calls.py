"""Calls to one registry: within the quotas, tried again while that helps, and their errors by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import stamina

from proxy.ecr.errors import (
    ChildrenMissing,
    EcrError,
    ImageMissing,
    KeyRefused,
    LayersMissing,
    NoCredentials,
    PartRefused,
    Passing,
    PolicyMissing,
    Refused,
    Rejected,
    RepositoryMissing,
    ScanMissing,
    ServiceError,
    TagTaken,
    Throttled,
    Unreachable,
    UploadLost,
)
from proxy.ecr.quota import Quotas
from proxy.ecr.session import Client
from proxy.ecr.target import Target
from proxy.observe import traces

# Six tries, 0.2 to 6.4 s apart and a little by chance, ride out a burst of throttling and most of AWS's hiccups.
# Whoever called pauses much longer, and holds nothing meanwhile.
TRIES: Final = 6
TOTAL: Final = 30.0
FIRST_WAIT: Final = 0.2
LONGEST_WAIT: Final = 8.0
JITTER: Final = 0.5

Observe = Callable[[str, str], None]
"""Told of each attempt: the operation, and `ok`, `throttled`, `failed`, `refused` or `rejected`."""

_DONE: Final = frozenset({
    "ImageAlreadyExistsException", "LayerAlreadyExistsException", "RepositoryAlreadyExistsException",
})  # fmt: skip
_NAMES: Final[Mapping[str, type[EcrError]]] = {
    "EmptyUploadException": UploadLost,
    "ImageNotFoundException": ImageMissing,
    "ImageTagAlreadyExistsException": TagTaken,
    "KmsException": KeyRefused,
    "LayerInaccessibleException": LayersMissing,
    "LayerPartTooSmallException": UploadLost,
    "LayersNotFoundException": LayersMissing,
    "LifecyclePolicyNotFoundException": PolicyMissing,
    "ReferencedImagesNotFoundException": ChildrenMissing,
    "RepositoryNotFoundException": RepositoryMissing,
    "RepositoryPolicyNotFoundException": PolicyMissing,
    "ScanNotFoundException": ScanMissing,
    "UnableToGetUpstreamImageException": Unreachable,
    "UnableToGetUpstreamLayerException": Unreachable,
    "UploadNotFoundException": UploadLost,
}
"""What errors of ECR's own mean; the others are about the content: Rejected."""
_OUTCOMES: Final[Mapping[type[EcrError], str]] = {
    Throttled: "throttled",
    Unreachable: "failed",
    Refused: "refused",
    NoCredentials: "refused",
    KeyRefused: "refused",
}

# A layer has up to a thousand parts: its upload has a span (`proxy.ecr.upload`), and they have none.
_TOO_MANY: Final = "UploadLayerPart"

_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


class Calls:
    """Calls about the repositories of one target."""

    def __init__(self, target: Target, client: Client, quotas: Quotas, observe: Observe, tries: int = TRIES) -> None:
        """`tries` are made of a call that fails in passing."""
        self._tries = tries
        self._target = target
        self._client = client
        self._quotas = quotas
        self._observe = observe

    async def ask(self, operation: str, name: str, **parameters: Any) -> dict[str, Any]:
        """ECR's answer. Where what is asked for is there already: an empty one, or, after an attempt whose answer got
        lost and which may be why it is there, {"perhaps": True}."""
        perhaps: dict[str, Any] = {}
        attempts = 0

        async def once() -> dict[str, Any]:
            nonlocal attempts
            attempts += 1
            await self._quotas.take(self._target.account, self._target.region, operation)
            outcome = "failed"
            with self._span(operation, name, attempts) as span:
                try:
                    answer = await self._client.call(
                        _WORD.sub("_", operation).lower(),
                        registryId=self._target.account,  # else credentials of another account would push to that one
                        repositoryName=name,
                        **parameters,
                    )
                    outcome = "ok"
                    return answer
                except ServiceError as error:
                    if error.code in _DONE:
                        outcome = "ok"
                        return perhaps
                    named = self._named(error, name)
                    outcome = _OUTCOMES.get(type(named), "rejected")
                    raise named from None
                except EcrError as error:
                    if isinstance(error, Unreachable):
                        perhaps["perhaps"] = True
                    outcome = _OUTCOMES.get(type(error), "rejected")
                    raise
                finally:
                    span.note(status=outcome)
                    self._observe(operation, outcome)

        caller = stamina.AsyncRetryingCaller(
            attempts=self._tries, timeout=TOTAL, wait_initial=FIRST_WAIT, wait_max=LONGEST_WAIT, wait_jitter=JITTER
        )
        return await caller(Passing, once)

    def _span(self, operation: str, name: str, attempt: int) -> AbstractContextManager[traces.Span]:
        if operation == _TOO_MANY:
            return traces.NOTHING
        return traces.span(f"ecr {operation}", "client", target=self._target.name, repository=name, attempt=attempt)

    def _named(self, error: ServiceError, name: str) -> EcrError:
        message = f"{self._target.registry}/{name}: {error}"
        if error.code == "InvalidLayerPartException":
            # Parts have 5 MiB at least: 0 is how ECR says that it has none.
            return PartRefused(message, error.fields.get("lastValidByteReceived") or -1)
        if error.code == "KmsException":
            message += (
                "; check that the repository's KMS key exists and is enabled, and that its policy admits the role"
            )
        return _NAMES.get(error.code, Rejected)(message)
