"""Refusals that teach: the key's full path, the value, what is wrong with it and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.settings.base import NESTING, Misfit, Section, flat

Path = tuple[str | int, ...]

_MAX_SHOWN: Final = 200  # enough to recognise a value by, a path included
_SECRET: Final = re.compile(r"pass|secret|token|credential|auth", re.IGNORECASE)
_NOT_SECRET: Final = frozenset({"token_hosts"})
_USERINFO: Final = re.compile(r"//[^/@\s]*@")

_ABSENT: Final = object()

# pydantic's own refusals in our words; {name} is filled from the error's context.
_MEANINGS: Final = {
    "missing": "this key is required; add it",
    "bool_parsing": "not a truth value; write true or false",
    "bool_type": "not a truth value; write true or false",
    "int_parsing": "not a number; write a whole number",
    "int_type": "not a number; write a whole number",
    "int_from_float": "not a whole number; write one without a fraction",
    "string_type": "not text; write text, in quotes if it looks like a number",
    "string_too_short": "this is empty; write a value or leave the key out",
    "literal_error": "not one of the choices; write {expected}",
    "greater_than_equal": "too small; write {ge} or more",
    "less_than_equal": "too large; write {le} or less",
    "too_long": "too many entries; write at most {max_length}",
    "tuple_type": "not a list; write a list such as [a, b]",
    "mapping_type": "not a mapping; write keys and values",
    "dict_type": "not a mapping; write keys and values",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `value` is already fit to be shown; empty when there is none."""

    key: str
    message: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.value} -> {self.message}" if self.value else f"{self.key} -> {self.message}"


class SettingsError(Exception):
    """The configuration cannot be used. The message lists every problem, and never shows a secret."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        noun = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"the configuration has {noun}:", *(f"  {problem}" for problem in problems)]))
        self.problems = tuple(problems)


def explain(error: ValidationError, model: type[Section], variables: Mapping[str, str]) -> SettingsError:
    """`variables` names the environment variable that set a key, by its `flat` path, for the message to name it."""
    return SettingsError([_problem(details, model, variables) for details in error.errors(include_url=False)])


def spelled(path: Path) -> str:
    """`ecr.targets[0].region`"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the file"


def shown(path: Path, value: object) -> str:
    """`value` for a message: never a secret, never long, and only the kind of anything that may hold a secret."""
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    names_a_file = key.endswith("_file")
    if not names_a_file and key not in _NOT_SECRET and _SECRET.search(key):
        return "(hidden)"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return (
            "a list" if not all(isinstance(item, str | int) for item in value) else _USERINFO.sub("//***@", repr(value))
        )
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") and '"' in value:
        return "text that is not JSON"  # it may hold a password like any other mapping
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = _USERINFO.sub("//***@", text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def suggest(word: str, known: Sequence[str]) -> str:
    """The second half of a message about an unknown key."""
    near = difflib.get_close_matches(word.lower(), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def _problem(details: ErrorDetails, model: type[Section], variables: Mapping[str, str]) -> Problem:
    kind, context = details["type"], details.get("ctx", {})
    path = tuple(part for part in details["loc"] if part != "[key]")  # pydantic's marker of a mapping's bad key
    value: object = details["input"] if kind != "missing" else _ABSENT
    if kind == "extra_forbidden":
        # The value of a key we do not know might be anything, a secret under a misspelt name included.
        value = _ABSENT
        message = f"unknown key; {suggest(str(path[-1]), list(_section_at(model, path[:-1]).model_fields))}"
    elif kind == "value_error":
        cause = context["error"]
        message = str(cause)
        value = _ABSENT if isinstance(value, Mapping) else value
        if isinstance(cause, Misfit):
            path, value = (*path, *cause.key), cause.value
    elif kind == "model_type":
        message = f"not a mapping; write a mapping with the keys {', '.join(_section_at(model, path).model_fields)}"
    else:
        message = _MEANINGS[kind].format(**context) if kind in _MEANINGS else details["msg"]
    above = (flat(NESTING.join(map(str, path[:end]))) for end in range(len(path), 0, -1))
    origin = next((variables[key] for key in above if key in variables), None)
    key = f"{spelled(path)} (set by {origin})" if origin else spelled(path)
    return Problem(key, message, "" if value is _ABSENT else shown(path, value))


def _section_at(model: type[Section], path: Path) -> type[Section]:
    """The section that `path` leads to or into. A list's index and an upstream's name lead nowhere deeper."""
    section = model
    for part in path:
        field = section.model_fields.get(str(part))
        section = next(_sections(field.annotation), section) if field else section
    return section


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
