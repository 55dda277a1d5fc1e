"""The API for machines: an OpenAPI 3.1 document of every route of the admin port.

GET /api/v1/openapi.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from proxy import __version__
from proxy.admin.schemas import (
    BYTES,
    COMPONENTS,
    COUNT,
    DIGEST,
    FLAG,
    NAME,
    TEXT,
    Schema,
    array,
    mapping,
    maybe,
    one_of,
    ref,
    shape,
)

Operation = dict[str, Any]
Query = Mapping[str, tuple[Schema, str | None]]
"""Parameters by name, with what is said of them; what has no description cannot be left out."""

_DESCRIPTION: Final = (
    "Reading is open to whoever reaches the port. Changes (POST) need the admin token, unless the port listens to its "
    "own machine only and no token is set. Times are seconds since 1970, sizes bytes. Streams are one JSON object a "
    "line, an empty line where there is nothing to tell for a while, and {summary} or {error} at the end."
)
_NONE: Final[Query] = MappingProxyType({})
_NAMES: Final = array(NAME)
_IMAGE: Final = shape(image=NAME)
_LIMIT: Final = "At most so many; more than the server's own limit are never given"


def openapi_routes() -> list[Route]:
    body = json.dumps(document()).encode()  # made once: it is the same for everybody

    async def openapi(_: Request) -> Response:
        return Response(body, media_type="application/json")

    return [Route("/api/v1/openapi.json", openapi)]


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Millpond", "version": __version__, "description": _DESCRIPTION},
        "paths": {
            **_health(),
            **{f"/api/v1/{path}": item for path, item in (_reads() | _changes() | _import() | _ecr()).items()},
        },
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "admin.token"}},
        },
    }


def _reads() -> dict[str, Operation]:
    page: Query = {"limit": (COUNT, _LIMIT)}
    images = shape(images=array(ref("Image")), total=COUNT, next=maybe(TEXT))
    savings = shape(
        days=array(ref("SavingsDay")),
        images=array(shape(name=TEXT, pulls=COUNT, served_bytes=BYTES, saved_bytes=BYTES)),
        since=TEXT,
    )
    return {
        "status": _get("How everything is", ref("Status")),
        "flights": _get("Blobs that are being fetched", shape(flights=array(ref("Flight")), total=COUNT)),
        "rates": _get("The last five minutes, second by second, oldest first", shape(rates=array(ref("Rates")))),
        "images": _get(
            "Images in the cache, by name",
            images,
            query={
                "q": (TEXT, "A part of name:tag@digest, or a glob with * ? []"),
                "after": (TEXT, "`next` of the page before"),
                **page,
            },
        ),
        "image": _get("One image, with all that it names", ref("ImageDetail"), query={"name": (NAME, None)}),
        "evictions": _get("What goes next when room is needed", shape(next=array(ref("Eviction"))), query=page),
        "pulls": _get(
            "The last pulls, newest first",
            shape(pulls=array(ref("Pull"))),
            query={
                "q": (TEXT, "A part of image, digest, client, user, source, outcome or reason, or a glob"),
                "before": (COUNT, "The id of a pull: older ones only"),
                **page,
            },
        ),
        "savings": _get("What was saved by day and upstream", savings, query={"days": (COUNT, "So many days back")}),
        "explain": _get(
            "Why a pull of an image was as it was, and what the next one would do",
            ref("Explanation"),
            query={"image": (NAME, None), "user": (TEXT, "Whom the rules of access are asked about")},
        ),
        "events": _stream_of_events(),
        "openapi.json": _get("This document", {"type": "object"}),
    }


def _changes() -> dict[str, Operation]:
    return {
        "pin": _post("Keep an image, whatever has to make room", _IMAGE, ref("Changed")),
        "unpin": _post("Let an image go again when room is needed", _IMAGE, ref("Changed")),
        "purge": _post("Remove an image, and what no other names", _IMAGE, ref("Changed")),
        "refresh": _post("Ask upstream now where a tag points", _IMAGE, ref("Refreshed")),
        "reload": _post("Read the configuration again", shape(), ref("Reloaded")),
        "warm": _post(
            "Bring images before they are pulled",
            shape("", ("platforms",), images=_NAMES, platforms={"anyOf": [one_of("all"), array(TEXT)]}),
            _lines("WarmRow"),
            streams=True,
        ),
        "cache/verify": _post("Hash every blob on disk", shape(), _lines("VerifyRow"), streams=True),
    }


def _import() -> dict[str, Operation]:
    kept = shape(kept=DIGEST)
    lacking = shape("`whole` are the bytes of all of it", blobs=mapping(BYTES), whole=BYTES)
    return {
        "import/lacking": _post("Which blobs are to be sent", lacking, shape(lacking=array(DIGEST))),
        "import/blob": _sent("Bring a blob", "application/octet-stream", kept, query={"digest": (DIGEST, None)}),
        "import/manifest": _sent("Bring a manifest, of its own type", "*/*", kept, query={"image": (NAME, None)}),
    }


def _ecr() -> dict[str, Operation]:
    state = shape(targets=array(ref("EcrTarget")), jobs=array(ref("EcrJob")))
    compare = _get("Compare images in all places; none named: all on disk", _lines("CompareRow"), streams=True)
    compare["get"]["parameters"] = [{"name": "image", "in": "query", "schema": _NAMES, "description": "Any number"}]
    return {
        "ecr": _get("Targets, and images on their way", state),
        "ecr/retry": _post(
            "Begin at once what was rejected or waits",
            shape("", ("target", "image"), target=TEXT, image=NAME),
            shape(retried=COUNT),
        ),
        "ecr/sync": _post("Push images to all targets", shape(images=_NAMES), _lines("SyncRow"), streams=True),
        "ecr/verify": compare,
    }


def _health() -> dict[str, Operation]:
    ready = {**shape(ready=FLAG, draining=FLAG), "additionalProperties": TEXT}
    busy = {"503": {"description": "The program is about to end", "content": _content("application/json", ready)}}
    readyz = _get("Whether pulls are served", ready)
    readyz["get"]["responses"] |= busy
    return {
        "/healthz": _get("Whether the program runs", TEXT, media_type="text/plain"),
        "/readyz": readyz,
        "/metrics": _get("Metrics, for Prometheus", TEXT, media_type="text/plain"),
    }


def _stream_of_events() -> Operation:
    about = (
        "Server-sent events: `tick` every second (rates, flights, cache), `pull` when one has ended (as in pulls), "
        "`state` when an upstream, a target, the cache, the configuration or the program is not what it was: "
        "{what, name, state, sentence}. Whoever reads too slowly is let go; too many readers are answered 503."
    )
    operation = _get("What happens, as it happens", TEXT, media_type="text/event-stream")
    operation["get"]["description"] = about
    return operation


def _get(
    summary: str,
    answer: Schema,
    *,
    streams: bool = False,
    media_type: str = "application/json",
    query: Query = _NONE,
) -> Operation:
    media_type = "application/x-ndjson" if streams else media_type
    return {"get": {"summary": summary, "parameters": _query(query), "responses": _responses(answer, media_type)}}


def _post(summary: str, body: Schema, answer: Schema, *, streams: bool = False) -> Operation:
    operation = _sent(summary, "application/json", answer, streams=streams)
    operation["post"]["requestBody"]["content"] = _content("application/json", body)
    return operation


def _sent(summary: str, body: str, answer: Schema, *, streams: bool = False, query: Query = _NONE) -> Operation:
    """`body` is a media type."""
    return {
        "post": {
            "summary": summary,
            "parameters": _query(query),
            "requestBody": {"required": True, "content": _content(body, {"contentMediaType": body})},
            "responses": _responses(answer, "application/x-ndjson" if streams else "application/json"),
            "security": [{"token": []}],
        }
    }


def _query(parameters: Query) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "schema": schema, "required": about is None, "description": about or "An image"}
        for name, (schema, about) in parameters.items()
    ]


def _responses(answer: Schema, media_type: str) -> dict[str, Any]:
    error = {"description": "What happened, and what to do", "content": _content("application/json", ref("Error"))}
    return {"200": {"description": "As asked", "content": _content(media_type, answer)}, "default": error}


def _lines(row: str) -> Schema:
    """One line of a stream."""
    return {"anyOf": [ref(row), ref("Summary"), ref("Error")]}


def _content(media_type: str, schema: Schema) -> dict[str, Any]:
    return {media_type: {"schema": schema}}
