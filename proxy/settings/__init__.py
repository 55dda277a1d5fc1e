"""The whole configuration: every key, every default and every check. Only `proxy.app` and `proxy.cli` import it."""

from proxy.settings.ecr import Ecr, RepositoryTemplate, Target
from proxy.settings.model import Admin, Cache, Log, Registry, Settings, Tls, Upstream, load
from proxy.settings.problems import Problem, SettingsError
from proxy.settings.targets import ecr_targets
from proxy.settings.values import Listen, Size

__all__ = [
    "Admin",
    "Cache",
    "Ecr",
    "Listen",
    "Log",
    "Problem",
    "Registry",
    "RepositoryTemplate",
    "Settings",
    "SettingsError",
    "Size",
    "Target",
    "Tls",
    "Upstream",
    "ecr_targets",
    "load",
]
