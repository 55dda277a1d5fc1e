"""The operator's API of what was pulled, and why it was as it was.

GET /api/v1/pulls    ?limit=&q=&before=    the last pulls, newest first; `before` is the id of one
GET /api/v1/savings  ?days=                by day and upstream, and the images that saved most
GET /api/v1/explain  ?image=&user=         what decides about a pull of this image, and what the next one would do;
                                          of an image that nobody has pulled, upstream is asked for the operator only
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.admin.answers import answered, named_in, number_in
from proxy.observe.history import History
from proxy.pull.explain import Explainer

# Of one answer, unless others are asked for, and at most.
PAGE: Final = 50
MAX_PAGE: Final = 500
# Savings are of a month, unless more is asked for.
DAYS: Final = 30


def pull_routes(history: History, explainer: Explainer) -> list[Route]:
    async def pulls(request: Request) -> Response:
        limit = max(1, min(number_in(request, "limit", PAGE), MAX_PAGE))
        before = number_in(request, "before", 0) or None
        found = history.pulls(limit, request.query_params.get("q", ""), before)
        return JSONResponse({"pulls": [pull.row() for pull in found]})

    async def savings(request: Request) -> Response:
        return JSONResponse(history.savings(number_in(request, "days", DAYS)))

    async def explain(request: Request) -> Response:
        image = named_in(request, "image")
        user = request.query_params.get("user", "")
        return JSONResponse(await explainer.explain(image, user, trusted=request.scope["trusted"]))

    return [
        Route("/api/v1/pulls", answered(pulls)),
        Route("/api/v1/savings", answered(savings)),
        Route("/api/v1/explain", answered(explain)),
    ]
