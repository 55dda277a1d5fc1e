"""The admin port: health, readiness, metrics, and the API of the disk cache and the ECR tier."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from proxy.admin.answers import Row
from proxy.admin.cache import cache_routes
from proxy.admin.ecr import EcrDesk, ecr_routes
from proxy.observe.metrics import Metrics


def admin_port(
    metrics: Metrics,
    status: Callable[[], dict[str, str]],
    draining: Callable[[], bool],
    ecr: EcrDesk | None = None,
    verify: Callable[[], AsyncGenerator[Row, None]] | None = None,
) -> Starlette:
    """`status` says how each tier is (`ok`, or what is wrong); `draining` whether the program is about to end;
    `ecr` is there when there are targets; `verify` is the disk cache's."""

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
            *ecr_routes(ecr, draining),
            *(cache_routes(verify, draining) if verify else ()),
        ],
    )
