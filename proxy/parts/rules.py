"""Who may pull what: access to the port, and the policy of supply."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.cache.disk import DiskCache
from proxy.cache.register import Register
from proxy.ecr.session import Sessions
from proxy.ecr.target import Target
from proxy.edge.access import Access
from proxy.edge.addresses import Addresses
from proxy.edge.rules import Rules as AccessRules
from proxy.edge.turns import Turns
from proxy.edge.users import Users
from proxy.observe.audit import Audit
from proxy.observe.metrics import Metrics
from proxy.oci.digest import Digest
from proxy.oci.names import Repository, Tag
from proxy.parts.ecr import make_apis
from proxy.pull.policy import Policy
from proxy.pull.rules import Rules
from proxy.pull.scan_gate import ScanGate
from proxy.pull.sightings import Sightings
from proxy.settings import Settings, access_rules

Push = Callable[[Repository, Digest, Tag | None], object]
"""Has an image pushed to ECR, at once."""


def make_users(settings: Settings) -> Users:
    """Whoever may log in; nobody, where everybody may pull. The caller closes it."""
    credentials = settings.access.credentials()
    return Users(credentials.passwords, credentials.tokens)


def make_access(settings: Settings, users: Users, before: Access | None = None) -> Access | None:
    """None where everybody may pull everything, and has no name. Whoever has a turn by `before`, which this is to take
    the place of, keeps it."""
    access, tls = settings.access, settings.registry.tls
    if access == type(access)() and not (tls and tls.client_ca_file):
        return None
    rules = access_rules(settings)
    turns = before.turns if before else None
    if turns is None or turns.terms != (access.max_pulls, access.max_wait):
        turns = Turns(access.max_pulls, access.max_wait) if access.max_pulls else None
    return Access(
        Addresses(access.networks, access.trusted_forwarders),
        users if access.has_users else None,
        access.anonymous,
        AccessRules(rules, default=access.default == "allow") if rules else None,
        turns,
    )


def make_policy(rules: Rules, cache: DiskCache, metrics: Metrics, clock: Callable[[], float], audit: Audit) -> Policy:
    """There is one without any rule too: the next configuration may have some."""
    register = cache.register("sightings") if rules.cooldown else Register(None)
    return Policy(rules, Sightings(register), metrics=metrics, clock=clock, told=audit.decision)


def make_gate(
    rules: Rules, targets: Sequence[Target], sessions: Sessions, *, metrics: Metrics, audit: Audit, push: Push
) -> ScanGate | None:
    """None where no scan is asked for."""
    if rules.scan_gate is None:
        return None
    (api,) = make_apis([target for target in targets if target.gate], sessions, metrics, tries=1)
    return ScanGate(rules.scan_gate, api, push=push, metrics=metrics, told=audit.decision)
