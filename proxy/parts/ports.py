"""The two ports: where they listen, and what they bear."""

from __future__ import annotations

from typing import Final

from proxy.admin.audited import Audited
from proxy.admin.guard import Guard
from proxy.observe.audit import Audit
from proxy.observe.metrics import Metrics
from proxy.oci.secret import Secret
from proxy.server import Limits, Listener, Server
from proxy.server.asgi import App
from proxy.settings import Settings

# Health checks, Prometheus and a few people: whoever floods this port shall not take the registry's descriptors.
ADMIN_CONNECTIONS: Final = 256


def make_registry_port(settings: Settings, app: App, metrics: Metrics) -> Server:
    """For clients."""
    registry = settings.registry
    limits = Limits(
        header_timeout=registry.header_timeout,
        write_timeout=registry.write_timeout,
        keep_alive=registry.keep_alive,
        grace=registry.grace_period,
        max_connections=registry.max_connections,
        max_connections_per_address=registry.max_connections_per_address,
    )
    server = Server(app, registry_listener(settings), limits, refused=metrics.connections_refused.inc)
    metrics.connections.set_function(lambda: server.connections)
    metrics.active.set_function(lambda: server.active)
    metrics.watch_sent(lambda: server.sent)
    return server


def make_admin_port(settings: Settings, app: App, local_pass: str | None, audit: Audit) -> Server:
    """For the operator. `local_pass` lets the command line on this machine make changes, all of which `audit` tells."""
    listen, token = settings.admin.listen, settings.admin.token
    guarded = Guard(
        app,
        listen.host,
        Secret(token.get_secret_value()) if token else None,
        Secret(local_pass) if local_pass else None,
    )
    audited = Audited(guarded, audit.change)
    return Server(audited, Listener(listen.host, listen.port), Limits(max_connections=ADMIN_CONNECTIONS), name="admin")


def registry_listener(settings: Settings) -> Listener:
    """Where clients find it."""
    listen, tls = settings.registry.listen, settings.registry.tls
    if tls is None:
        return Listener(listen.host, listen.port)
    return Listener(listen.host, listen.port, tls.cert_file, tls.key_file, tls.client_ca_file)
