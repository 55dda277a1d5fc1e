"""The operator's wish that images be here before anybody pulls them.

POST /api/v1/warm  {images: [...], platforms?: "all" | ["linux/amd64", ...]}    a stream of progress, one JSON object a
                   line, the last one a summary. What is here already is skipped; whoever leaves ends it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.admin.answers import BadRequest, answered, body_of, stream
from proxy.pull.warm import Warmer

_THEN: Final = "what has come so far is kept; ask again when it runs"


def warm_routes(warmer: Warmer, draining: Callable[[], bool]) -> list[Route]:
    async def warm(request: Request) -> Response:
        body = await body_of(request, {"images", "platforms"})
        images, platforms = body.get("images"), body.get("platforms", "all")
        if not _texts(images) or not images:
            raise BadRequest('"images" is to be a list of image names, one at least')
        if platforms != "all" and not _texts(platforms):
            raise BadRequest('"platforms" is to be "all", or a list such as ["linux/amd64"]')
        return stream(warmer.warm(images, platforms), draining, _THEN)

    return [Route("/api/v1/warm", answered(warm), methods=["POST"])]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)
