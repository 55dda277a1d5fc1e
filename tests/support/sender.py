"""How a scripted answer goes out: its range, its framing, its gates, and the way it ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from tests.support import wire
from tests.support.faults import BEFORE_HEADERS, Answer, Request


class Sender:
    """One answer on its way out; bytes of body are counted in `sent` by path."""

    def __init__(self, request: Request, answer: Answer, writer: asyncio.StreamWriter, sent: Counter[str]) -> None:
        self._sent = sent
        self._request = request
        self._writer = writer
        self._answer, self._body = _apply_range(request, answer)

    async def send(self) -> bool:
        """Whether the connection may be used again."""
        answer = self._answer
        await self._pass_gate(BEFORE_HEADERS)
        self._writer.write(wire.head(answer.status, self._headers()))
        stop = len(self._body) if answer.cut_at is None else min(answer.cut_at, len(self._body))
        if self._request.method != "HEAD":
            await self._send_body(stop)
            await self._pass_gate(stop)
            if answer.framing == "chunked" and answer.cut_at is None:
                self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        if answer.ending == "reset":
            await wire.reset(self._writer)
        return answer.ending == "keep" and answer.framing != "close" and answer.cut_at is None

    def _headers(self) -> dict[str, str]:
        answer = self._answer
        headers = {"Server": "scripted", **answer.headers}
        if answer.framing == "length":
            headers.setdefault("Content-Length", str(len(self._body) if answer.declared is None else answer.declared))
        elif answer.framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        return headers

    async def _send_body(self, stop: int) -> None:
        steps = sorted({position for position in self._answer.gates if 0 <= position < stop} | {stop})
        start = 0
        for step in steps:
            for part in wire.slices(self._body, start, step):
                await self._write(part)
            start = step
            if step < stop:
                await self._pass_gate(step)

    async def _write(self, part: memoryview) -> None:
        if self._answer.framing == "chunked":
            self._writer.write(f"{len(part):x}\r\n".encode() + bytes(part) + b"\r\n")
        else:
            self._writer.write(part)
        await self._writer.drain()
        self._sent[self._request.path] += len(part)

    async def _pass_gate(self, position: int) -> None:
        gate = self._answer.gates.get(position)
        if gate:
            await self._writer.drain()
            await gate.wait()


def _apply_range(request: Request, answer: Answer) -> tuple[Answer, memoryview]:
    body = memoryview(answer.body)
    asked = wire.range_of(request.headers.get("range", ""), len(body)) if answer.ranged else None
    if asked is None or answer.status != 200:
        return answer, body
    start, stop = asked
    if start >= stop:
        headers = {**answer.headers, "Content-Range": f"bytes */{len(body)}"}
        return replace(answer, status=416, headers=headers), body[:0]
    headers = {**answer.headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
    return replace(answer, status=206, headers=headers), body[start:stop]
