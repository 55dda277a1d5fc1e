"""Whether containerd's CRI plugin reads the folder of hosts.toml files: `config_path` of its own configuration."""

from __future__ import annotations

import os.path
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

_STANDARD: Final = PurePosixPath("/etc/containerd/certs.d")
# The plugin with the registries, by the version of the file; every later one is as 3.
_PLUGINS: Final = {1: "cri", 2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.images"}
_RESTART: Final = "and restart containerd."
_MAX_FILES: Final = 100  # imports of imports; more is a mistake

Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ConfigPath:
    """Whether containerd reads the folder; else `detail` says what to do."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class _Loaded:
    """All files of one configuration, the first one first: an import comes after, and over, what imports it."""

    version: int
    plugins: list[Table]

    @property
    def plugin(self) -> str:
        return _PLUGINS[min(self.version, 3)]

    @property
    def sections(self) -> list[Table]:
        return [_table(plugins, self.plugin) for plugins in self.plugins if self.plugin in plugins]

    def registry(self) -> Table:
        """As containerd has it in the end: before version 3, a later file replaces the whole of a plugin's section."""
        sections = self.sections if self.version >= 3 else self.sections[-1:]
        return {key: value for section in sections for key, value in _table(section, "registry").items()}


def default_config(directory: Path) -> Path:
    """Where containerd's own configuration is, as seen from its certs.d."""
    return directory.parent / "config.toml"


def default_root(directory: Path) -> Path:
    """What is / to containerd, where `directory` is its standard folder seen through a mount; else our own /."""
    parts, standard = directory.absolute().parts, _STANDARD.parts[1:]
    return Path(*parts[: -len(standard)]) if parts[-len(standard) :] == standard else Path("/")


def config_path(config: Path, directory: Path, root: Path) -> ConfigPath:
    """Look whether `config` names `directory`, both as we see them, with `root` in front."""
    folder = _as_containerd_sees(directory, root)
    try:
        loaded = _load(config, root)
    except FileNotFoundError as error:
        missing = Path(error.filename)
        if missing == config:
            return ConfigPath(
                False, f"{config} is not there; write it with\n  version = 2\n{_lines(2, folder)}\n{_RESTART}"
            )
        if root != Path("/"):
            return ConfigPath(
                False,
                f"{missing} is not there, which {config} imports: containerd does not start, or it cannot be seen from "
                "here; mount its folder too",
            )
        return ConfigPath(False, f"{missing} is not there, which {config} imports: containerd does not start")
    except (OSError, ValueError) as error:
        return ConfigPath(False, f"{config} cannot be read: {getattr(error, 'strerror', None) or error}")
    return _verdict(config, loaded, folder)


def _verdict(config: Path, loaded: _Loaded, folder: str) -> ConfigPath:
    registry = loaded.registry()
    value = registry.get("config_path")
    advice = f"write into it\n{_lines(loaded.version, folder)}\n{_RESTART}"
    if not value or not isinstance(value, str):
        if registry.get("mirrors"):
            return ConfigPath(
                False,
                f"{config} has registry.mirrors, which containerd does not take together with config_path; move them "
                f"into hosts.toml files, then {advice}",
            )
        return ConfigPath(False, f"{config} does not set config_path{_elsewhere(loaded)}; {advice}")
    folders = [os.path.normpath(part) for part in value.split(":")]
    if folder not in folders:
        return ConfigPath(False, f"{config} sets config_path to {value}; install there, with --directory, or {advice}")
    if len(folders) > 1 and loaded.version >= 3 and not _pulls_by_itself(loaded.sections):
        return ConfigPath(
            False,
            f"{config} sets config_path to a list, {value}, which containerd 2.1 and later takes for the name of one "
            f"folder (containerd issue 12415); {advice}",
        )
    return ConfigPath(True, f"{config} sets config_path to {value}")


def _elsewhere(loaded: _Loaded) -> str:
    """Where a value that does not count is."""
    for plugins in loaded.plugins:
        for name in _PLUGINS.values():
            if _table(_table(plugins, name), "registry").get("config_path"):
                if name != loaded.plugin:
                    return f' where version {loaded.version} has it, only for "{name}"'
                return ", because an imported file replaces the section that does"
    return ""


def _pulls_by_itself(sections: list[Table]) -> bool:
    """Whether the CRI plugin pulls without the transfer service, and so knows lists: asked for, or by what excludes it.

    From containerd's CheckLocalImagePullConfigs.
    """
    section = {key: value for table in sections for key, value in table.items()}
    return (
        any(section.get(key) for key in ("use_local_image_pull", "discard_unpacked_layers", "image_pull_with_sync_fs"))
        or section.get("disable_snapshot_annotations") is False
        or section.get("max_concurrent_downloads", 3) != 3
    )


def _lines(version: int, folder: str) -> str:
    plugin = _PLUGINS[min(version, 3)]
    name = plugin if version < 2 else f'"{plugin}"'
    return f'  [plugins.{name}.registry]\n    config_path = "{folder}"'


def _load(config: Path, root: Path) -> _Loaded:
    """Raises OSError, and ValueError for what is no TOML."""
    version, plugins = 0, []
    loaded: set[Path] = set()
    pending = [config]
    while pending and len(loaded) < _MAX_FILES:
        file = pending.pop(0)
        if file in loaded:
            continue
        loaded.add(file)
        try:
            document = tomllib.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        found = document.get("version")
        if isinstance(found, int) and file == config:
            version = found
        plugins.append(_table(document, "plugins"))
        imports = document.get("imports", [])
        for name in imports if isinstance(imports, list) else []:
            pending += _imported(str(name), file, root)
    return _Loaded(max(version, 1), plugins)


def _imported(name: str, parent: Path, root: Path) -> list[Path]:
    path = root / name.lstrip("/") if name.startswith("/") else parent.parent / name
    path = Path(os.path.normpath(path))
    if "*" not in name:
        return [path]
    pattern = path.relative_to(path.anchor)
    return sorted(Path(path.anchor).glob(str(pattern)))


def _as_containerd_sees(directory: Path, root: Path) -> str:
    absolute = directory.absolute()
    return f"/{absolute.relative_to(root)}" if absolute.is_relative_to(root) else str(absolute)


def _table(document: Table, key: str) -> Table:
    found = document.get(key)
    return found if isinstance(found, dict) else {}
