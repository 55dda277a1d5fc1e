"""An answer: its status and headers, and a body that is still on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Self

import httpx

from proxy.oci.errors import UpstreamInvalid, UpstreamTimeout
from proxy.oci.secret import Secret
from proxy.upstream.guard import Target
from proxy.upstream.transport.translation import Translation

# A query of so many characters may be a signature; those of the registry API (n, last, artifactType) may be repeated.
SIGNED_QUERY: Final = 64


class Reply:
    """An answer whose body is still on the wire: read it once, close it always (`async with`).

    Iterating yields raw bytes as they arrive, never content-decoded.
    """

    def __init__(
        self,
        target: Target,
        response: httpx.Response,
        translation: Translation,
        *,
        secrets: Sequence[Secret],
        ended: Callable[[], Awaitable[None]],
    ) -> None:
        """`secrets` are what was sent, and what is not to be repeated from the answer; `ended` is called once."""
        self.target: Final = target
        self.status: Final = response.status_code
        self._response = response
        self._translation = translation
        self._secrets = secrets
        self._ended: Callable[[], Awaitable[None]] | None = ended
        self._body = response.aiter_raw()

    def header(self, name: str) -> str | None:
        """The first value; None when the header is missing."""
        return next(iter(self.headers(name)), None)

    def headers(self, name: str) -> list[str]:
        """The header's lines, each as it came."""
        return self._response.headers.get_list(name)

    @property
    def length(self) -> int | None:
        """Content-Length in bytes; None when it is missing or not a number."""
        text = self.header("content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 20 else None

    def repeats_a_secret(self, text: str) -> bool:
        """Whether `text`, of this answer, has in it what was secret in the request: some gateways echo it."""
        _, _, query = self.target.path.partition("?")
        kept = [secret.reveal().rpartition(" ")[2] for secret in self._secrets]
        return any(part in text for part in (*kept, *([query] if len(query) >= SIGNED_QUERY else ())))

    async def read(self, limit: int, *, within: float) -> bytes:
        """The whole body, of at most `limit` bytes, in `within` seconds.

        Raises:
            UpstreamInvalid: it is longer; no more than one chunk beyond `limit` has been read.
            UpstreamTimeout: it took longer.
        """
        too_long = UpstreamInvalid(f"{self.target} sent a body of more than {limit} bytes where that is the limit")
        if (self.length or 0) > limit:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(within):
                async for chunk in self:
                    body += chunk
                    if len(body) > limit:
                        raise too_long
        except TimeoutError:
            raise UpstreamTimeout(f"{self.target} did not finish its answer within {within:g} s") from None
        return bytes(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with self._translation:
            return await anext(self._body)
        raise self._translation.error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connection back when the body has been read to its end, else close it: nothing is drained."""
        try:
            await self._body.aclose()  # type: ignore[attr-defined]  # an async generator, though typed as an iterator
        finally:
            ended, self._ended = self._ended, None
            try:
                await self._response.aclose()
            finally:
                if ended is not None:
                    await ended()
