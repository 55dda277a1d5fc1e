"""The remote registries that the settings name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, get_args

from proxy.ecr.login import Login
from proxy.ecr.session import Sessions
from proxy.edge.routes import Namespace
from proxy.observe.metrics import Metrics
from proxy.observe.upstreams import UpstreamStates
from proxy.oci.secret import Secret
from proxy.settings import Settings, Upstream
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint, Observer, Timeouts
from proxy.upstream.health import State

Key = tuple[str | int, ...]
"""The path of a key of the configuration."""

# Keys of an upstream that say nothing of how it is reached: its connections and tokens stay as they are.
_NOT_OURS: Final = frozenset({"aliases", "tag_ttl", "stale_for", "on_deleted", "connections_per_blob"})


def registries(settings: Settings, sessions: Sessions, observer: Observer | None = None) -> dict[str, Registry]:
    """A client for each configured upstream, by name. Nothing is connected yet; the caller closes them."""
    return {name: _registry(name, upstream, sessions, observer) for name, upstream in settings.upstreams.items()}


class Upstreams:
    """The upstreams of a house that follows its configuration. One that is not configured any more stays for what is
    under way; nobody can name it then."""

    def __init__(self, sources: dict[str, Registry], sessions: Sessions, observer: Observer) -> None:
        """`sources` are the registries of the first settings, and come to be those of later ones."""
        self._sources = sources
        self._sessions = sessions
        self._observer = observer

    def follow(self, settings: Settings, moved: Collection[Key]) -> list[Awaitable[None]]:
        """From now on those whose keys are among `moved` are reached as these settings say, new ones included. What
        is returned is to be awaited."""
        names = {str(key[1]) for key in moved if key[0] == "upstreams" and (len(key) == 2 or key[2] not in _NOT_OURS)}
        retired = []
        for name in names & set(settings.upstreams):
            upstream = settings.upstreams[name]
            if registry := self._sources.get(name):
                retired.append(registry.renew(_endpoint(name, upstream, self._sessions), _timeouts(upstream)))
            else:
                self._sources[name] = _registry(name, upstream, self._sessions, self._observer)
        return retired


def configured(sources: Mapping[str, Registry], namespace: Namespace) -> Callable[[], Mapping[str, Registry]]:
    """Those of `sources` that somebody can name now: others may still be at work for somebody, and are not shown."""
    return lambda: {name: registry for name, registry in sources.items() if namespace.find(name) == name}


def watch_upstreams(upstreams: Callable[[], Mapping[str, Registry]], metrics: Metrics) -> None:
    """Have the metrics say how each of them is, of those that there are at the time."""
    metrics.registry.register(UpstreamStates(upstreams, get_args(State)))


def balancer(settings: Settings) -> Registry | None:
    """What stands before several instances, where it is configured. The caller closes it."""
    ecr = settings.ecr
    if ecr.balancer is None:
        return None
    password = Secret(ecr.balancer_password.get_secret_value()) if ecr.balancer_password else None
    keys = "ecr.balancer_username and ecr.balancer_password_file"
    return Registry(Endpoint("balancer", ecr.balancer, username=ecr.balancer_username, password=password, keys=keys))


def _registry(name: str, upstream: Upstream, sessions: Sessions, observer: Observer | None) -> Registry:
    return Registry(_endpoint(name, upstream, sessions), timeouts=_timeouts(upstream), observer=observer)


def _timeouts(upstream: Upstream) -> Timeouts:
    return Timeouts(connect=upstream.connect_timeout, read=upstream.read_timeout)


def _endpoint(name: str, upstream: Upstream, sessions: Sessions) -> Endpoint:
    login = None
    if upstream.auth == "ecr":
        assert upstream.region, "the settings have found one"
        service = "ecr-public" if upstream.is_ecr_public else "ecr"
        client = sessions.client(service, upstream.region, upstream.role_arn, upstream.endpoint_url)
        login = Login(client, public=upstream.is_ecr_public)
    return Endpoint(
        name=name,
        url=upstream.url,
        token_hosts=tuple(upstream.token_hosts),
        ca_file=upstream.ca_file,
        username=upstream.username,
        password=Secret(upstream.password.get_secret_value()) if upstream.password else None,
        login=login.credentials if login else None,
        forget=login.forget if login else None,
    )
