"""The admin port: health, readiness, metrics, the operator's API and page."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from proxy.admin.page import page_routes
from proxy.observe.metrics import Metrics


def admin_port(
    metrics: Metrics, status: Callable[[], dict[str, str]], draining: Callable[[], bool], api: Iterable[Route]
) -> Starlette:
    """`status` says how each tier is (`ok`, or what is wrong); `draining` whether the program is about to end; `api`
    has the routes of `proxy.admin.api`."""

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        # Not a word with any upstream: an outage over there must not take this cache out of service.
        ready = not draining()
        return JSONResponse({"ready": ready, "draining": not ready, **status()}, 200 if ready else 503)

    async def render(_: Request) -> Response:
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", render),
            *page_routes(),
            *api,
        ],
    )
