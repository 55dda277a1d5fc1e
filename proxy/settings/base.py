"""What every section of the configuration shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

NESTING: Final = "__"  # between the parts of a key in an environment variable


class Section(BaseModel):
    """Frozen, and refuses a key it does not know. An empty section (`cache:`) means its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        return {} if data is None else data


class Misfit(ValueError):
    """A key of a section does not fit another key; blames `key`, a path below the section."""

    def __init__(self, key: tuple[str | int, ...], value: object, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.value = value


def flat(key: str) -> str:
    """`key` as the name of an environment variable can hold it, but in lower case."""
    return re.sub(r"[^a-z0-9]", "_", key)


def entries(value: object) -> object:
    """A mapping from "0", "1", … is a list too: environment variables name single entries so."""
    if isinstance(value, Mapping) and value and set(value) == {str(index) for index in range(len(value))}:
        return [value[str(index)] for index in range(len(value))]
    return value


def as_list(value: object) -> object:
    """`a, b` is a list too: an environment variable has no other way to write one."""
    value = entries(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("not a number; write a whole number")
    return value


WholeNumber = Annotated[int, BeforeValidator(_not_bool)]
