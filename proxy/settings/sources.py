"""Where a configuration comes from: pydantic-settings' sources for a YAML file and the environment, made strict.

Here is what those pass over in silence or have no notion of: a file that cannot be opened, a key that comes twice, an
unknown variable, a name with dots, an entry of a list that is named by its number."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic_settings import BaseSettings, EnvSettingsSource, YamlConfigSettingsSource
from pydantic_settings.sources.utils import parse_env_vars

from proxy.settings.base import NESTING, flat
from proxy.settings.defaults import BUILT_IN
from proxy.settings.problems import Problem, SettingsError

PREFIX: Final = "MILLPOND_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
_MAX_FILE: Final = 4 * 1024 * 1024  # far above any configuration, far below what would hurt
_AS_SHOWN: Final = "write keys and values as in config/millpond.yaml"

# Beside the passwords of upstreams.
_SECRETS: Final = (("admin", "token"), ("ecr", "balancer_password"))

# Kubernetes sets these in every pod of a namespace that has a Service named millpond or millpond-…: not ours to judge.
_SERVICE_LINK: Final = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)


class ConfigFile(YamlConfigSettingsSource):
    """The mapping in a YAML file. SettingsError, with the line where there is one, if it cannot be read as such."""

    def __call__(self) -> dict[str, Any]:
        return dict(_numbered(super().__call__(), self.current_state))

    def _read_files(self, files: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return self._read_file(Path(files)) if files else {}

    def _read_file(self, file: Any) -> dict[str, Any]:
        try:
            with file.open("rb") as stream:
                text = stream.read(_MAX_FILE + 1)
            if len(text) > _MAX_FILE:
                raise _unfit(file, f"this file is larger than {_MAX_FILE} bytes; this cannot be a configuration")
            document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader underneath
        except FileNotFoundError:
            raise _unfit(file, "there is no such file; write the path of a YAML file, or leave --config out") from None
        except OSError as error:
            raise _unfit(file, f"this file cannot be read ({error.strerror}); change its path, owner or mode") from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            where = f"{file}, line {mark.line + 1}, column {mark.column + 1}" if mark else file
            raise _unfit(where, f"{error.problem or 'not YAML'}; correct the YAML") from None
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
            raise _unfit(file, f"this file is not YAML; {_AS_SHOWN}") from None
        if not isinstance(document, dict | None):
            raise _unfit(file, f"this file is not a mapping; {_AS_SHOWN}")
        _refuse_passwords(document or {})
        return document or {}


class Environment(EnvSettingsSource):
    """The variables of `environ`. A shell cannot hold a variable with a dot in its name, so that
    `MILLPOND_UPSTREAMS__DOCKER_IO__URL` finds docker.io too: that one is built in, others are `configured`.
    SettingsError if a variable leads to no key, or below one that another variable sets to a plain value."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str], configured: Any) -> None:
        self._environ = environ
        names = configured if isinstance(configured, Mapping) else ()
        self._upstreams = {flat(name): name for name in (*BUILT_IN, *names)}
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, Any]:
        """Shallow keys first, so that single keys are laid over a section that comes as JSON. JSON is decoded here:
        pydantic-settings cannot tell what stands in a Mapping or a tuple."""
        fields = self.settings_cls.model_fields
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for variable in sorted(_variables(self._environ), key=lambda name: (name.count(NESTING), name)):
            parts = variable.removeprefix(PREFIX).lower().split(NESTING)
            if parts[0] == "upstreams" and len(parts) > 1:
                parts[1] = self._upstreams.get(parts[1], parts[1])
            key, *above = (PREFIX + NESTING.join(parts[:end]) for end in range(len(parts), 0, -1))
            if parts[0] not in fields or (above and not self.field_is_complex(fields[parts[0]])):
                problems.append(_unknown(variable, fields))
            elif not all(isinstance(values.get(other, {}), dict) for other in above):
                problems.append(Problem(variable, "a key above this one is set as a whole; keep one of the variables"))
            values[key] = _value(self._environ[variable])
        if problems:
            raise SettingsError(problems)
        return parse_env_vars(values, case_sensitive=True, parse_none_str=self.env_parse_none_str)


def origins(environ: Mapping[str, str]) -> dict[str, str]:
    """The variable that sets a key, by the key's `flat` path."""
    return {flat(variable.removeprefix(PREFIX).lower()): variable for variable in _variables(environ)}


def _variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Those that set a key. An empty variable counts as not set."""
    for name, text in environ.items():
        if text and name.startswith(PREFIX) and name != CONFIG_VARIABLE and not _SERVICE_LINK.fullmatch(name):
            yield name


def _value(text: str) -> Any:
    """JSON for a mapping or a list; anything else is text, and its key's own parser reads it."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("{", "[") else text
    except (ValueError, RecursionError):
        return text


def _unknown(variable: str, known: Collection[str]) -> Problem:
    head, nesting, rest = variable.removeprefix(PREFIX).partition(NESTING)
    hint = f"known: {CONFIG_VARIABLE}, {', '.join(f'{PREFIX}{key.upper()}' for key in known)}"
    for near in difflib.get_close_matches(head.lower(), known, n=1):
        hint = f"did you mean {PREFIX}{near.upper()}{'' if head.lower() in known else nesting + rest}?"
    return Problem(variable, f"unknown environment variable; {hint}")


def _numbered(tree: Any, over: Any) -> Any:
    """`tree` with its lists as mappings from numbers where `over`, to be merged into it, names single entries."""
    if not isinstance(over, dict) or not isinstance(tree, dict | list):
        return tree
    items = tree.items() if isinstance(tree, dict) else zip(map(str, range(len(tree))), tree, strict=True)
    return {key: _numbered(item, over.get(key)) for key, item in items}


def _refuse_passwords(document: Mapping[str, Any]) -> None:
    """A file is copied, committed and shown in tickets; a password in it would leave its trust domain."""

    def problem(key: str, variable: str) -> Problem:
        what = key.rpartition(".")[2]
        hint = f"put it into a file of its own and name that with {what}_file, or set the environment variable"
        return Problem(key, f"a {what} does not belong into this file; {hint} {PREFIX}{variable}", "(hidden)")

    upstreams = document.get("upstreams")
    named = upstreams.items() if isinstance(upstreams, Mapping) else ()
    holders = [name for name, upstream in named if isinstance(upstream, Mapping) and "password" in upstream]
    problems = [problem(f"upstreams.{name}.password", "UPSTREAMS__<NAME>__PASSWORD") for name in holders]
    for section, key in _SECRETS:
        if isinstance(found := document.get(section), Mapping) and key in found:
            problems.append(problem(f"{section}.{key}", f"{section}{NESTING}{key}".upper()))
    if problems:
        raise SettingsError(problems)


def _unfit(where: object, message: str) -> SettingsError:
    return SettingsError([Problem(str(where), message)])


class _Loader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that comes twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node in (key_node for key_node, _ in node.value if key_node.tag != "tag:yaml.org,2002:merge"):
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                problem = "comes twice" if isinstance(key, str) else "is not text, put it in quotes"
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} {problem}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
