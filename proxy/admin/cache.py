"""The operator's API of the disk cache, as JSON.

POST /api/v1/cache/verify  {}    hash every blob on disk: a stream of progress, one JSON object a line, the last one a
                                 summary; 409 while one runs already. Whoever leaves ends it
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy.admin.answers import BadRequest, Row, answered, body_of, stream
from proxy.cache.scrub import VerifyRuns


def cache_routes(verify: Callable[[], AsyncGenerator[Row, None]], draining: Callable[[], bool]) -> list[Route]:
    """`verify` is `proxy.cache.scrub.Scrubber.verify`."""

    async def verified(request: Request) -> Response:
        await body_of(request, set())
        try:
            rows = verify()
        except VerifyRuns as error:
            raise BadRequest(str(error), 409) from None
        return stream(rows, draining, "what was found so far has been evicted; ask again when it runs")

    return [Route("/api/v1/cache/verify", answered(verified), methods=["POST"])]
