"""What the API takes and answers, as JSON Schema: the components of the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def mapping(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def maybe(schema: Schema) -> Schema:
    """Or null."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def shape(about: str = "", optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object, all of whose keys are there but the optional ones. Later versions may add others."""
    required = [name for name in properties if name not in optional]
    described = {"description": about} if about else {}
    return {"type": "object", **described, "properties": properties, "required": required}


TEXT: Final[Schema] = {"type": "string"}
NAME: Final[Schema] = {"type": "string", "description": "An image, as docker.io/library/alpine:3.20"}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9]+:[a-f0-9]+$"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
BYTES: Final[Schema] = {"type": "integer", "minimum": 0, "description": "Bytes"}
SECONDS: Final[Schema] = {"type": "number", "minimum": 0, "description": "Seconds"}
TIME: Final[Schema] = {"type": "number", "description": "Seconds since 1970, UTC"}
RATE: Final[Schema] = {"type": "number", "minimum": 0, "description": "A second"}
FLAG: Final[Schema] = {"type": "boolean"}

_PROGRESS: Final = {"bytes_done": BYTES, "bytes_total": BYTES}
_BLOBS: Final = {"blobs_done": COUNT, "blobs_total": COUNT, **_PROGRESS}

_SUMS: Final = {
    "requests": COUNT,
    "hits": COUNT,
    "served_bytes": BYTES,
    "fetched_bytes": BYTES,
    "saved_bytes": BYTES,
    "saved_pulls": COUNT,
}

_CELL: Final = shape(digest=maybe(DIGEST), note=TEXT, failed=FLAG)

_ABOUT_IMAGE: Final = (
    "`size` is of all that the image names, `present` of what of it is on disk. `tag` and `checked` are null for what "
    "was pulled by digest. `held` has `disk` (whole, part) and each ECR target (yes, no, unknown)"
)
_IMAGE: Final = {
    "name": TEXT,
    "tag": maybe(TEXT),
    "digest": DIGEST,
    "media_type": TEXT,
    "size": BYTES,
    "present": BYTES,
    "platforms": array(TEXT),
    "checked": maybe(TIME),
    "used": maybe(TIME),
    "pinned": FLAG,
    "held": mapping(TEXT),
}

COMPONENTS: Final[dict[str, Schema]] = {
    "Error": shape("What happened, and what to do next", error=TEXT),
    "Config": shape(
        "`error` is why the last reload was refused; `restart` are keys whose new values wait for a restart",
        file=maybe(TEXT),
        loaded=TIME,
        error=maybe(TEXT),
        restart=array(TEXT),
    ),
    "Cache": shape(
        "`state` is ok, or why nothing new is kept",
        state=TEXT,
        directory=TEXT,
        bytes=BYTES,
        blobs=COUNT,
        max_size=BYTES,
        min_free=BYTES,
        free=maybe(BYTES),
        pinned_bytes=BYTES,
    ),
    "Upstream": shape(
        "`state` judges the last minute's questions, and stays while nobody asks. `why` is a sentence; one of what is "
        "ok has just recovered. `since`: when the state became so; `until`: when upstream is asked again. Counts are "
        "since the start",
        name=TEXT,
        url=TEXT,
        state=one_of("ok", "failing", "limited", "refused", "idle"),
        why=TEXT,
        since=maybe(TIME),
        until=maybe(TIME),
        rate_limit=maybe(
            shape(limit=maybe(COUNT), remaining=maybe(COUNT), window=maybe(COUNT), seen=TIME),
        ),
        requests=COUNT,
        failures=COUNT,
        fetched_bytes=BYTES,
    ),
    "EcrTarget": shape(
        "`state` is ok, or why the whole target is refused; the counts are of images",
        name=TEXT,
        registry=TEXT,
        state=TEXT,
        queued=COUNT,
        pushing=COUNT,
        done=COUNT,
        rejected=COUNT,
        repositories_off=mapping(TEXT),
    ),
    "EcrJob": shape(
        "One image on its way to one target; `next_try` in seconds from now",
        target=TEXT,
        repository=TEXT,
        digest=DIGEST,
        tags=array(TEXT),
        state=one_of("queued", "pushing", "done", "rejected"),
        attempts=COUNT,
        reason=TEXT,
        next_try=maybe(SECONDS),
        note=TEXT,
        **_PROGRESS,
    ),
    "Rates": shape(
        "A second; `hit_ratio` is null where nothing was asked for",
        now=TIME,
        served_rate=RATE,
        fetched_rate=RATE,
        requests_rate=RATE,
        hit_ratio=maybe({"type": "number", "minimum": 0, "maximum": 1}),
    ),
    "Totals": shape("Since the start; what was saved, as far back as the history goes", **_SUMS),
    "Status": shape(
        "`flights` are blobs that are being fetched, `active` responses in progress, `lag` the event loop's longest of "
        "the last minute",
        version=TEXT,
        now=TIME,
        started=TIME,
        ready=FLAG,
        draining=FLAG,
        config=ref("Config"),
        cache=ref("Cache"),
        flights=COUNT,
        active=COUNT,
        lag=SECONDS,
        upstreams=array(ref("Upstream")),
        ecr=array(ref("EcrTarget")),
        totals=ref("Totals"),
    ),
    "Flight": shape(
        "One blob that is being fetched. `size` is null until upstream has agreed; `spare`: no client waits for it",
        digest=DIGEST,
        repository=TEXT,
        upstream=TEXT,
        tier=one_of("ecr", "upstream"),
        size=maybe(BYTES),
        landed=BYTES,
        rate=RATE,
        followers=COUNT,
        connections=COUNT,
        started=TIME,
        spare=FLAG,
    ),
    "Image": shape(_ABOUT_IMAGE, **_IMAGE),
    "ImageDetail": shape(
        "As `Image`, with what it names. `tags` all point at it",
        **_IMAGE,
        children=array(shape(digest=DIGEST, platform=maybe(TEXT), size=BYTES, present=BYTES)),
        tags=array(TEXT),
        blobs=array(shape(digest=DIGEST, size=BYTES, on_disk=FLAG)),
    ),
    "Eviction": shape(digest=DIGEST, size=BYTES, used=TIME, image=maybe(TEXT), pinned=FLAG),
    "Pull": shape(
        "What one client asked for of one image; `why` it failed, or did not come from the disk",
        id=TEXT,
        at=TIME,
        client=TEXT,
        user=TEXT,
        image=NAME,
        digest=maybe(DIGEST),
        source=maybe(one_of("hit", "joined", "ecr", "upstream", "stale")),
        bytes=BYTES,
        seconds=SECONDS,
        status=COUNT,
        outcome=one_of("pulling", "complete", "failed", "client left", "aborted"),
        why=TEXT,
        requests=COUNT,
        done=FLAG,
    ),
    "SavingsDay": shape(
        "Of one upstream on one day, in UTC",
        day=TEXT,
        upstream=TEXT,
        answered=COUNT,
        pulls=COUNT,
        **_SUMS,
    ),
    "Explanation": shape(
        "`cause` and `next` are a sentence each: why it is so, and what the next pull would do",
        image=TEXT,
        name=NAME,
        digest=maybe(DIGEST),
        cause=TEXT,
        next=TEXT,
        steps=array(shape(what=TEXT, answer=TEXT, detail=TEXT)),
    ),
    "Changed": shape("What of it is on disk, or has gone from there", image=NAME, digests=COUNT, bytes=BYTES),
    "Refreshed": shape(
        "Where the tag pointed, and where it does; without `confirmed` that is ECR's word",
        image=NAME,
        before=maybe(DIGEST),
        after=DIGEST,
        changed=FLAG,
        confirmed=FLAG,
    ),
    "Reloaded": shape("Keys of the configuration", changed=array(TEXT), restart=array(TEXT)),
    "WarmRow": shape(
        image=NAME,
        state=one_of("waiting", "pulling", "done", "failed"),
        reason=TEXT,
        **_BLOBS,
    ),
    "SyncRow": shape(
        "`target` is null where it is about the image itself",
        image=NAME,
        target=maybe(TEXT),
        state=one_of("queued", "pushing", "done", "rejected", "waiting", "failed"),
        reason=TEXT,
        **_PROGRESS,
    ),
    "CompareRow": shape(
        image=NAME,
        verdict=one_of("same", "differs", "unverified"),
        disk=_CELL,
        upstream=_CELL,
        targets=mapping(_CELL),
    ),
    "VerifyRow": {
        "anyOf": [
            shape(digest=DIGEST, verdict=one_of("damaged", "missing", "unreadable")),
            shape(**_BLOBS),
        ]
    },
    "Summary": shape("The last line of a stream", summary=mapping(COUNT)),
}
