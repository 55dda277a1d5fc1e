"""What an operation is handed, and what several operations need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.support.ecr.errors import AwsError
from tests.support.ecr.faults import Call
from tests.support.ecr.registry import FakeRegistry, FakeRepository

MAX_PART: Final = 10 * 1024 * 1024
MIN_PART: Final = 5 * 1024 * 1024
"""Bytes that a part of a layer may have; the last one may be smaller."""


@dataclass(frozen=True, slots=True)
class Desk:
    """One call to one registry. `parameters` are whole: blobs are bytes."""

    call: Call
    parameters: dict[str, Any]
    registry: FakeRegistry
    part_size: int
    min_part: int
    refused_media_types: frozenset[str]
    corrupt_images: frozenset[str]
    sign: Callable[[FakeRepository, str], str]  # gives the URL of a layer
    grant_password: Callable[[], tuple[str, float]]  # gives a password and when it expires
    violate: Callable[[str], None]
    permit: Callable[[str], None]

    @property
    def repository(self) -> FakeRepository:
        """The one that the call names.

        Raises:
            AwsError: RepositoryNotFoundException.
        """
        name = self.parameters["repositoryName"]
        found = self.registry.repositories.get(name)
        if found is None:
            raise AwsError(
                "RepositoryNotFoundException",
                f"The repository with name '{name}' does not exist in the registry with id '{self.registry.account}'",
            )
        return found

    def answer(self, repository: FakeRepository, **members: Any) -> dict[str, Any]:
        """`members`, and the two that nearly every answer has."""
        return {"registryId": repository.account, "repositoryName": repository.name, **members}


Operation = Callable[[Desk], dict[str, Any]]
