"""What AWS answers when it does not do what it was asked."""

from __future__ import annotations

from typing import Any


class AwsError(Exception):
    """A refusal. `fields` are the members that the error's shape has besides its message."""

    def __init__(self, code: str, message: str, status: int = 400, **fields: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = fields


class BrokenOffError(Exception):
    """The connection is to be closed instead of an answer."""


def invalid_parameter(name: str, constraint: str) -> AwsError:
    """The error for a parameter that does not meet `constraint`, in ECR's words."""
    return AwsError(
        "InvalidParameterException", f"Invalid parameter at '{name}' failed to satisfy constraint: '{constraint}'"
    )
