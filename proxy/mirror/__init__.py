"""What a client must know to pull through Millpond: its files, written and undone. Standard library only.

`plan` says which files a client needs; `Installation` writes them, checks them and restores what was there before;
`config_path` reads containerd's own configuration; `watch` keeps them there.
"""

from proxy.mirror.clients import CLIENTS, Plan, plan
from proxy.mirror.config_path import ConfigPath, config_path, default_config, default_root
from proxy.mirror.install import Installation, Outcome
from proxy.mirror.names import Address, Registry
from proxy.mirror.pieces import Refused
from proxy.mirror.watch import Finding, watch

__all__ = [
    "CLIENTS",
    "Address",
    "ConfigPath",
    "Finding",
    "Installation",
    "Outcome",
    "Plan",
    "Refused",
    "Registry",
    "config_path",
    "default_config",
    "default_root",
    "plan",
    "watch",
]
