"""The operator's API of the ECR tier, as JSON. Streams are one JSON object a line, the last one a summary.

GET  /api/v1/ecr                              queue, failures with their reasons
POST /api/v1/ecr/retry   {target?, image?}    what was rejected or waits begins at once
POST /api/v1/ecr/sync    {images: [...]}      push images to all targets: a stream of progress
GET  /api/v1/ecr/verify  ?image=...&image=... compare disk, upstream and targets: a stream of rows
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.admin.answers import BadRequest, Row, answered, body_of, stream, text_in

_THEN: Final = "what was begun goes on when it runs again"


class EcrDesk(Protocol):
    """What the operator may ask of the ECR tier. Rows and results are fit for JSON."""

    def status(self) -> Row:
        """`targets` and `jobs`, as `proxy.ecr.tier.TierStatus` has them."""

    def targets(self) -> Sequence[Row]:
        """The `targets` alone, for whoever looks often."""

    def retry(self, target: str | None, image: str | None) -> int:
        """Begin at once what was rejected or waits; how many. MillpondError where a name means nothing here."""

    def sync(self, images: Sequence[str]) -> AsyncGenerator[Row, None]:
        """Push images to all of their targets. Rows: image, target (null: all), state (queued, pushing, done,
        rejected, waiting, failed), reason, bytes_done, bytes_total; the last row is {"summary": {done, failed}}.

        Raises:
            MillpondError: at once, where a name cannot be read. Nothing has been begun then.
        """

    def verify(self, images: Sequence[str]) -> AsyncGenerator[Row, None]:
        """Compare images (none: all that are on disk). Rows as `proxy.ecr.compare.Row.as_json`; the last row is
        {"summary": {same, differs, unverified}}. Raises as `sync`."""


def ecr_routes(desk: EcrDesk | None, draining: Callable[[], bool]) -> list[Route]:
    """The routes above. Without a desk each of them says that there are no targets."""

    async def status(_: Request) -> Response:
        return JSONResponse(_open(desk).status())

    async def retry(request: Request) -> Response:
        body = await body_of(request, {"target", "image"})
        target, image = (text_in(body, key) for key in ("target", "image"))
        return JSONResponse({"retried": _open(desk).retry(target, image)})

    async def sync(request: Request) -> Response:
        images = (await body_of(request, {"images"})).get("images")
        if not isinstance(images, list) or not images or not all(isinstance(image, str) for image in images):
            raise BadRequest('"images" is to be a list of image names, one at least')
        return stream(_open(desk).sync(images), draining, _THEN)

    async def verify(request: Request) -> Response:
        return stream(_open(desk).verify(request.query_params.getlist("image")), draining, _THEN)

    return [
        Route("/api/v1/ecr", answered(status)),
        Route("/api/v1/ecr/retry", answered(retry), methods=["POST"]),
        Route("/api/v1/ecr/sync", answered(sync), methods=["POST"]),
        Route("/api/v1/ecr/verify", answered(verify)),
    ]


def _open(desk: EcrDesk | None) -> EcrDesk:
    if desk is None:
        raise BadRequest("there are no ecr.targets in the configuration of this server", 404)
    return desk
