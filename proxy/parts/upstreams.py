"""The remote registries that the settings name."""

from __future__ import annotations

from proxy.ecr.login import Login
from proxy.ecr.session import Sessions
from proxy.oci.secret import Secret
from proxy.settings import Settings, Upstream
from proxy.upstream.client import Registry
from proxy.upstream.endpoint import Endpoint, Observer, Timeouts


def registries(settings: Settings, sessions: Sessions, observer: Observer | None = None) -> dict[str, Registry]:
    """A client for each configured upstream, by name. Nothing is connected yet; the caller closes them."""
    return {
        name: Registry(
            _endpoint(name, upstream, sessions),
            timeouts=Timeouts(connect=upstream.connect_timeout, read=upstream.read_timeout),
            observer=observer,
        )
        for name, upstream in settings.upstreams.items()
    }


def balancer(settings: Settings) -> Registry | None:
    """What stands before several instances, where it is configured. The caller closes it."""
    return Registry(Endpoint("balancer", settings.ecr.balancer)) if settings.ecr.balancer else None


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
