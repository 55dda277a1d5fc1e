"""JSON Schema of Millpond's configuration, out of the settings themselves.

It is for `helm`, which sees no files and no environment: it says what stands at the wrong place and what cannot be
read. What it lets through and the settings would not, such as a file that is missing, Millpond refuses at start. It
must never refuse what they take. Patterns are for RE2 (Go): no look-around.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import PlainValidator
from pydantic.fields import FieldInfo

from proxy.settings import Listen, Settings, Size, Upstream, access, ecr, policy, values
from proxy.settings.base import Section, as_list, entries
from proxy.settings.model import Cache

Schema = dict[str, Any]

_NUMBER: Final = r"\d{1,9}(\.\d{1,6})?"
_SIZE: Final = {
    "type": ["string", "integer"],
    "minimum": 0,
    "pattern": r"(?i)^\s*\d{1,19}(\.\d{1,9})?\s*([kmgtp](i?b|i)|b|%)?\s*$",
}
_DURATION: Final = {
    "type": ["string", "number"],
    "minimum": 0,
    "pattern": rf"(?i)^\s*({_NUMBER}|({_NUMBER}\s*(w|d|h|ms|m|s)\s*)+)\s*$",
}
_TEXT: Final = {"type": "string", "minLength": 1}
_HOST: Final = {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:\d{1,5})?$"}
_LIST: Final = {"type": "array", "items": _TEXT}

_PARSERS: Final[Sequence[tuple[Callable[..., Any], Schema]]] = (
    (Size.parse, _SIZE),
    (values.positive_size, _SIZE),
    (values.duration, _DURATION),
    (values.positive_duration, _DURATION),
    (Listen.parse, {"type": "string", "pattern": r"^\s*(\[[0-9a-fA-F:.]+(%\w+)?\]|[^\s:\[\]/]*):\d{1,5}\s*$"}),
    (values.host, _HOST),
    (values.base_url, {"type": "string", "pattern": r"(?i)^https?://[^/@?#\s\\]+(/[^?#\s\\]*)?$"}),
    (values.path, _TEXT),
    (values.readable_file, _TEXT),
    (values.ca_bundle, _TEXT),
    (values.audit_stream, _TEXT),
    (ecr._prefix, {"type": "string", "maxLength": ecr.MAX_REPOSITORY_NAME // 2}),
    (ecr._platforms, {"oneOf": [{"enum": ["all", "pulled"]}, {**_LIST, "minItems": 1}]}),
    (ecr._some_upstreams, {**_LIST, "minItems": 1}),
    (access._network, _TEXT),
    (access._pattern, _TEXT),
    (access._reason, {"type": "string", "maxLength": access.MAX_REASON}),
    (policy._pattern, _TEXT),
    (policy._exemption, _TEXT),
    (policy._digest, {"type": "string", "pattern": "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"}),
    (policy._moment, _TEXT),
    (policy._reason, {"type": "string", "minLength": 1, "maxLength": policy.MAX_REASON}),
    (ecr._tags, {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": ecr.MAX_TAGS}),
)
_SCALARS: Final[Mapping[Any, Schema]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    Path: _TEXT,
}
# A value of these keys would stand in a ConfigMap for everyone to read. The message of a constant is its text.
_PASSWORDS: Final = ((Upstream, "password"), (ecr.Ecr, "balancer_password"))


def config_schema() -> Schema:
    """The schema of a configuration file."""
    return _section(Settings)


def _section(section: type[Section]) -> Schema:
    properties = {}
    for name, field in section.model_fields.items():
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        # `directory` is the one key whose parser is a lambda: null is the default directory.
        properties[name] = {"type": ["string", "null"]} if (section, name) == (Cache, "directory") else _of(kind)
    for holder, key in _PASSWORDS:
        if section is holder:
            properties[key] = {"const": f"(not here) in a Secret of existingSecrets, whose file {key}_file names"}
    # A built-in upstream has its url, and any other one's is its name.
    required = [name for name, field in section.model_fields.items() if field.is_required() and section is not Upstream]
    schema: Schema = {"type": ["object", "null"], "additionalProperties": False, "properties": properties}
    return {**schema, "required": required, "type": "object"} if required else schema


def _of(kind: Any) -> Schema:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return _nullable([_of(choice) for choice in arguments if choice is not types.NoneType])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0])}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        # Null removes a built-in upstream, and stands for an empty one elsewhere.
        return {
            "type": ["object", "null"],
            "propertyNames": _of(arguments[0]),
            "additionalProperties": _nullable([_of(arguments[1])]),
        }
    if isinstance(kind, type) and issubclass(kind, Section):
        return _section(kind)
    return dict(_SCALARS[kind]) if kind in _SCALARS else {}


def _annotated(kind: Any, metadata: Sequence[Any]) -> Schema:
    for item in metadata:
        if isinstance(item, PlainValidator):
            return _parsed(item.func)
    schema = _of(kind)
    limits = [limit for item in metadata for limit in (item.metadata if isinstance(item, FieldInfo) else [item])]
    for item in limits:
        match item:
            case Ge(ge=limit):
                schema["minimum"] = limit
            case Le(le=limit):
                schema["maximum"] = limit
            case MinLen(min_length=limit):
                schema["minLength"] = limit
            case MaxLen(max_length=limit):
                schema["maxItems"] = limit
    if any(getattr(item, "func", None) in (as_list, entries) for item in metadata):
        text = [{"type": "string"}] if any(getattr(item, "func", None) is as_list for item in metadata) else []
        return {"anyOf": [schema, *text]} if text else schema
    return schema


def _parsed(parser: Callable[..., Any]) -> Schema:
    for known, schema in _PARSERS:
        if parser == known:
            return dict(schema)
    # A text that has to match: the pattern is the parser's own.
    pattern = inspect.getclosurevars(parser).nonlocals.get("pattern")
    if pattern is None:
        raise LookupError(f"{parser} is new: write what it takes into _PARSERS")
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    return {"type": "string", "pattern": f"^({text})$"}


def _nullable(choices: list[Schema]) -> Schema:
    if len(choices) > 1:
        return {"anyOf": [*choices, {"type": "null"}]}
    (schema,) = choices
    match schema.get("type"):
        case str(kind):
            return {**schema, "type": [kind, "null"]}
        case list(kinds):
            return {**schema, "type": [*dict.fromkeys([*kinds, "null"])]}
    return {**schema, "enum": [*schema["enum"], None]} if "enum" in schema else {"anyOf": [schema, {"type": "null"}]}
