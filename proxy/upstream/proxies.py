"""The forward proxy for a request: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY as the standard library reads them."""

from __future__ import annotations

from urllib.request import (  # type: ignore[attr-defined]  # the second is missing in typeshed
    getproxies_environment,
    proxy_bypass_environment,
)

from proxy.upstream.guard import Target


def proxy_for(target: Target) -> str | None:
    """The proxy's URL, which can hold a password; None to connect directly."""
    proxies = getproxies_environment()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if not proxy or proxy_bypass_environment(f"{target.host}:{target.port}", proxies):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def host_of(proxy: str | None) -> str | None:
    """host[:port] of a proxy's URL, without the password before the @."""
    return proxy.rpartition("://")[2].rpartition("@")[2].partition("/")[0] if proxy else None
