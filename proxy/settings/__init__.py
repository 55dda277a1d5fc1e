"""The whole configuration: every key, every default and every check. For `proxy.app`, `proxy.parts` and `proxy.cli`."""

from proxy.settings.access import Access, access_rules
from proxy.settings.changes import changes, keyed
from proxy.settings.credentials import Credentials
from proxy.settings.documents import yaml_documents
from proxy.settings.ecr import Ecr, RepositoryTemplate, Target
from proxy.settings.model import Admin, Cache, Log, Registry, Settings, Tls, Upstream, load
from proxy.settings.policy import Policy, policy_rules
from proxy.settings.problems import Problem, SettingsError, spelled
from proxy.settings.sources import CONFIG_VARIABLE
from proxy.settings.targets import ecr_targets, upstreams_of
from proxy.settings.values import Listen, Size

__all__ = [
    "CONFIG_VARIABLE",
    "Access",
    "Admin",
    "Cache",
    "Credentials",
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
    "changes",
    "ecr_targets",
    "keyed",
    "load",
    "policy_rules",
    "spelled",
    "upstreams_of",
    "yaml_documents",
]
