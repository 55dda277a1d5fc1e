"""Where a configuration comes from: a YAML file and the environment, each read into plain nested mappings."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from proxy.settings.problems import Path as KeyPath
from proxy.settings.problems import Problem, SettingsError

PREFIX: Final = "MILLPOND_"
NESTING: Final = "__"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
_MAX_FILE: Final = 4 * 1024 * 1024  # far above any configuration, far below what would hurt

# Kubernetes sets these in every pod of a namespace that has a Service named millpond or millpond-…: not ours to judge.
_SERVICE_LINK: Final = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


def read_file(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        SettingsError: the file is missing, unreadable, not YAML, or not a mapping; with the line where there is one.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_FILE + 1)
    except FileNotFoundError:
        raise _refused(file, "there is no such file; write the path of a YAML file, or leave --config out") from None
    except OSError as error:
        raise _refused(file, f"this file cannot be read ({error.strerror}); change its path, owner or mode") from None
    if len(text) > _MAX_FILE:
        raise _refused(file, f"this file is larger than {_MAX_FILE} bytes; this cannot be a configuration")
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader underneath
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise _refused(file, f"{error.problem or 'not YAML'}; correct the YAML", where) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise _refused(file, "this file is not YAML; write keys and values as in config/millpond.yaml") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise _refused(file, "this file is not a mapping; write keys and values as in config/millpond.yaml")
    return document


def read_environment(environ: Mapping[str, str], upstreams: Iterable[str]) -> dict[KeyPath, tuple[str, Any]]:
    """Key paths that the environment sets, each with its variable and value; shallow paths first.

    An empty variable counts as not set. `upstreams` are the names known so far: a shell cannot hold a variable with a
    dot in its name, so `MILLPOND_UPSTREAMS__DOCKER_IO__URL` finds docker.io too.
    """
    names = {re.sub(r"[^a-z0-9]", "_", name): name for name in upstreams}
    found: dict[KeyPath, tuple[str, Any]] = {}
    for variable, text in sorted(environ.items()):
        if (
            not variable.startswith(PREFIX)
            or variable == CONFIG_VARIABLE
            or not text
            or _SERVICE_LINK.fullmatch(variable)
        ):
            continue
        parts = variable.removeprefix(PREFIX).lower().split(NESTING)
        if parts[0] == "upstreams" and len(parts) > 1:
            parts[1] = names.get(parts[1], parts[1])
        found[tuple(parts)] = (variable, _value(text))
    return dict(sorted(found.items(), key=lambda item: len(item[0])))


def unknown_variable(variable: str, known: Collection[str]) -> Problem:
    """The problem of a variable whose first part is no key of the configuration."""
    head, nesting, rest = variable.removeprefix(PREFIX).partition(NESTING)
    near = difflib.get_close_matches(head.lower(), known, n=1)
    if near:
        hint = f"did you mean {PREFIX}{near[0].upper()}{nesting}{rest}?"
    else:
        hint = f"known: {CONFIG_VARIABLE}, {', '.join(f'{PREFIX}{key.upper()}' for key in known)}"
    return Problem(variable, f"unknown environment variable; {hint}")


def merge(base: Any, over: Any) -> Any:
    """`over` laid over `base`, mapping by mapping; anything that is not a mapping is replaced."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: merge(base.get(key), value) for key, value in over.items()}}


def place(tree: Any, path: KeyPath, value: Any) -> Any:
    """`tree` with `value` laid over what is at `path`. A number is a list's index if there is a list (or nothing)."""
    if not path:
        return merge(tree, value)
    part, rest = str(path[0]), path[1:]
    if part.isdecimal() and isinstance(tree, list) and int(part) <= len(tree):
        index = int(part)
        old = tree[index] if index < len(tree) else None
        return [*tree[:index], place(old, rest, value), *tree[index + 1 :]]
    if part == "0" and tree is None:
        return [place(None, rest, value)]
    kept = tree if isinstance(tree, Mapping) else {}
    return {**kept, part: place(kept.get(part), rest, value)}


def _value(text: str) -> Any:
    """JSON for a mapping, a list or null; anything else is text, and its key's own parser reads it."""
    if text == "null" or text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _refused(file: Path, message: str, where: str = "") -> SettingsError:
    return SettingsError([Problem(f"{file}{where}", message)])


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that comes twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text, put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} comes twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
