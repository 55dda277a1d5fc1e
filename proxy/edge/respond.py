"""Responses: headers from an allow-list, manifests as they are, blobs piece by piece without copying."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.oci.digest import Digest
from proxy.oci.manifest import Manifest
from proxy.oci.ranges import ByteRange
from proxy.pull.blob import Blob
from proxy.pull.piece import Piece, Segment

# Headers of manifests that are remembered: what a fleet pulls again and again, in a megabyte or two.
_REMEMBERED: Final = 2048


def content_headers(digest: Digest, origin: str) -> dict[str, str]:
    """What every answer that is named by a digest carries."""
    return {"Docker-Content-Digest": digest, "ETag": f'"{digest}"', "X-Millpond": origin}


def not_modified(if_none_match: str | None, digest: Digest) -> bool:
    """Whether the client's If-None-Match names `digest` (RFC 9110: `*`, or a list of quoted tags, weak ones too)."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")}
    return "*" in tags or digest in tags


class ManifestResponse(Response):
    """A manifest as it is."""

    def __init__(self, manifest: Manifest, origin: str) -> None:
        # Nothing of `Response.__init__`, which would put together for each request what is the same for all of them.
        self.status_code = 200
        self.background = None
        self.body = manifest.body
        self.raw_headers = list(_manifest_headers(manifest.digest, manifest.media_type, len(self.body), origin))


@lru_cache(_REMEMBERED)
def _manifest_headers(digest: Digest, media_type: str, size: int, origin: str) -> list[tuple[bytes, bytes]]:
    headers = content_headers(digest, origin) | {"Content-Type": media_type, "Content-Length": str(size)}
    return Response(headers=headers).raw_headers


class BlobResponse(Response):
    """A blob, or a range of it. The status line goes out only once there is something behind it.

    Raises, when called, whatever makes the blob fail: before the status line the caller can still answer with a
    problem; after it the connection is aborted, so that no client takes a part for the whole.
    """

    def __init__(self, blob: Blob, wanted: ByteRange | None, headers: Mapping[str, str]) -> None:
        super().__init__(
            status_code=206 if wanted else 200, headers=dict(headers), media_type="application/octet-stream"
        )
        self._blob = blob
        self._start, self._stop = (wanted.start, wanted.stop) if wanted else (0, blob.size)
        self.headers["Content-Length"] = str(self._stop - self._start)
        if wanted:
            self.headers["Content-Range"] = wanted.content_range

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  as ASGI has it
        try:
            async with aclosing(self._blob.read(self._start, self._stop)) as pieces:
                piece: Piece | None = await anext(pieces, b"")
                self.headers["X-Millpond"] = self._blob.origin  # who gave it is certain now
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                left = self._stop - self._start
                while piece is not None:
                    left -= piece.count if isinstance(piece, Segment) else len(piece)
                    await send(_message(piece, more=left > 0))
                    piece = await anext(pieces, None)
        except OSError as error:
            await self._blob.failed(error)
            raise
        finally:
            self._blob.close()


def _message(piece: Piece, *, more: bool) -> dict[str, object]:
    if isinstance(piece, Segment):
        return {
            "type": "http.response.zerocopysend",
            "file": piece.file,
            "offset": piece.offset,
            "count": piece.count,
            "more_body": more,
        }
    return {"type": "http.response.body", "body": piece, "more_body": more}
