"""The operator's API of what is cached, as JSON.

GET  /api/v1/images     ?q=&limit=&after=    a page of images with `q` in their name:tag@digest, or like it (* ? [])
GET  /api/v1/image      ?name=               one of them with its platforms, its other tags and its blobs
GET  /api/v1/evictions  ?limit=              what goes next when there is no room
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.admin.answers import answered, named_in, number_in
from proxy.pull.images import Images

# Of a page, unless more are asked for.
PAGE: Final = 50


def image_routes(images: Images) -> list[Route]:
    async def search(request: Request) -> Response:
        query, after = request.query_params.get("q", ""), request.query_params.get("after") or None
        return JSONResponse(await images.search(query, number_in(request, "limit", PAGE), after))

    async def one(request: Request) -> Response:
        return JSONResponse(await images.one(named_in(request, "name")))

    async def evictions(request: Request) -> Response:
        return JSONResponse(await images.evictions(number_in(request, "limit", PAGE)))

    return [
        Route("/api/v1/images", answered(search)),
        Route("/api/v1/image", answered(one)),
        Route("/api/v1/evictions", answered(evictions)),
    ]
