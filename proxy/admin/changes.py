"""What the operator changes of what is cached, and of the configuration. The guard lets nobody here without the token.

POST /api/v1/pin      {image}    keep it, whatever has to make room
POST /api/v1/unpin    {image}    let it go again
POST /api/v1/purge    {image}    remove it, and what no other image names
POST /api/v1/refresh  {image}    ask upstream now where its tag points
POST /api/v1/reload   {}         read the configuration again; 409 where it cannot be used, and the old one stays
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.admin.answers import BadRequest, Row, answered, body_of, image_in
from proxy.pull.keeping import Conflict, Keeping

Reload = Callable[[], Awaitable[Row]]
"""The keys that have `changed`, and those that need a `restart`. Raises BadRequest where nothing has changed."""


def change_routes(keeping: Keeping, reload: Reload | None) -> list[Route]:
    """Without `reload` the program cannot read its configuration again."""

    async def pin(request: Request) -> Response:
        return JSONResponse(keeping.pin(await _image(request)))

    async def unpin(request: Request) -> Response:
        return JSONResponse(keeping.unpin(await _image(request)))

    async def purge(request: Request) -> Response:
        try:
            return JSONResponse(await keeping.purge(await _image(request)))
        except Conflict as error:
            raise BadRequest(str(error), 409) from None

    async def refresh(request: Request) -> Response:
        return JSONResponse(await keeping.refresh(await _image(request)))

    async def reloaded(request: Request) -> Response:
        await body_of(request, set())
        if reload is None:
            raise BadRequest("this server cannot read its configuration again; restart it instead", 404)
        return JSONResponse(await reload())

    handlers = {"pin": pin, "unpin": unpin, "purge": purge, "refresh": refresh, "reload": reloaded}
    return [Route(f"/api/v1/{name}", answered(handler), methods=["POST"]) for name, handler in handlers.items()]


async def _image(request: Request) -> str:
    return image_in(await body_of(request, {"image"}))
