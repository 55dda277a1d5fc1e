"""The whole configuration: every key, every default and every check. For `proxy.app`, `proxy.parts` and `proxy.cli`."""

from proxy.settings.access import Access, access_rules
from proxy.settings.ecr import Ecr, RepositoryTemplate, Target
from proxy.settings.model import Admin, Cache, Log, Registry, Settings, Tls, Upstream, load
from proxy.settings.policy import Policy, policy_rules
from proxy.settings.problems import Problem, SettingsError
from proxy.settings.targets import ecr_targets
from proxy.settings.values import Listen, Size

__all__ = [
    "Access",
    "Admin",
    "Cache",
    "Ecr",
    "Listen",
    "Log",
    "Policy",
    "Problem",
    "Registry",
    "RepositoryTemplate",
    "Settings",
    "SettingsError",
    "Size",
    "Target",
    "Tls",
    "Upstream",
    "access_rules",
    "ecr_targets",
    "load",
    "policy_rules",
]
