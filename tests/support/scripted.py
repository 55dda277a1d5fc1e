"""An upstream that behaves well until a test scripts a fault: real sockets, every request recorded.

    with ScriptedUpstream() as upstream:
        digest = upstream.add_blob("library/x", content)
        upstream.script(digest, cut(1000), refuse(503))    # first request, second request; then it behaves
        gate = Gate()
        upstream.script(digest, change(gates={500_000: gate}))    # byte 500,000 waits for gate.open()

It runs on a thread of its own, so synchronous tests and tests on the event loop use it alike. The faults are in
`tests.support.faults`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

from tests.support import wire
from tests.support.certificates import Authority
from tests.support.faults import Answer, Fault, Request, refuse
from tests.support.images import OCI_INDEX, Manifest
from tests.support.ports import free_port
from tests.support.sender import Sender
from tests.support.waiting import DEADLINE

OCTETS: Final = "application/octet-stream"


@dataclass
class _Script:
    part: str
    method: str
    faults: list[Fault]
    then: Fault | None


# Turns of the event loop from an accepted connection to the task that it ends with.
_TURNS: Final = 10


class ScriptedUpstream:
    """A registry at `url`, on one port of 127.0.0.1 that it keeps over `stop` and `start`."""

    def __init__(self, authority: Authority | None = None) -> None:
        self.port = free_port()
        self.requests: list[Request] = []
        self.violations: list[str] = []  # requests that no strict server would take
        self.sent: Counter[str] = Counter()  # bytes of body sent, by path
        self.connections = 0
        self._authority = authority
        self._context = authority.issue().server_context() if authority else None
        self._answers: dict[str, Answer] = {}
        self._tags: dict[str, set[str]] = {}
        self._referrers: dict[str, list[dict[str, Any]]] = {}
        self._scripts: list[_Script] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None] | None] = set()  # an answer at a gate is referred to by nobody else

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._authority else 'http'}://{self.host}"

    def upstream(self, **settings: Any) -> dict[str, Any]:
        """This upstream as an entry below `upstreams` in Millpond's configuration."""
        entry: dict[str, Any] = {"url": self.url}
        if self._authority:
            entry["ca_file"] = str(self._authority.ca_file)
        return {**entry, **settings}

    def add_blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> str:
        """Hold `content` and return its digest."""
        digest = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
        self.serve(
            f"/v2/{repository}/blobs/{digest}",
            Answer(200, content, {"Content-Type": OCTETS, "Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}),
        )
        return digest

    def add_manifest(self, repository: str, body: bytes, media_type: str, *tags: str, algorithm: str = "sha256") -> str:
        """Hold a manifest under its digest and `tags`; a tag that exists moves. It may be nonsense."""
        digest = f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
        answer = Answer(200, body, {"Content-Type": media_type, "Docker-Content-Digest": digest}, ranged=False)
        for name in (digest, *tags):
            self.serve(f"/v2/{repository}/manifests/{name}", answer)
        self._tags.setdefault(repository, set()).update(tags)
        self._note_subject(repository, body, media_type, digest)
        return digest

    def add(self, image: Manifest, repository: str, *tags: str) -> str:
        """Hold a whole image, index or artifact, and return its digest."""
        for blob in image.all_blobs().values():
            self.add_blob(repository, blob.read(), blob.digest.partition(":")[0])
        for part in image.walk():
            names = tags if part is image else ()
            self.add_manifest(repository, part.body, part.media_type, *names, algorithm=part.algorithm)
        return image.digest

    def remove_tag(self, repository: str, tag: str) -> None:
        self._tags[repository].discard(tag)
        del self._answers[f"/v2/{repository}/manifests/{tag}"]

    def serve(self, path: str, answer: Answer) -> None:
        """Answer this exact path, whatever it is."""
        self._answers[path] = answer

    def script(self, part: str, *faults: Fault, then: Fault | None = None, method: str = "GET") -> None:
        """From now on, the first request whose path contains `part` gets the first fault, and so on.

        After the last one comes `then` for ever, or good behaviour. Replaces an earlier script for the same.
        """
        self._scripts = [old for old in self._scripts if (old.part, old.method) != (part, method)]
        self._scripts.append(_Script(part, method, list(faults), then))

    def behave(self) -> None:
        """Forget every script."""
        self._scripts.clear()

    def seen(self, part: str = "", method: str = "GET") -> list[Request]:
        """The requests so far whose path contains `part`, in order; an empty `method` is any."""
        return [r for r in list(self.requests) if part in r.path and method in ("", r.method)]

    def sent_of(self, part: str) -> int:
        """Bytes of body sent for all paths that contain `part`, such as a digest."""
        return sum(count for path, count in list(self.sent.items()) if part in path)

    def start(self) -> Self:
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.result(DEADLINE)
        return self

    def stop(self) -> None:
        """Stop listening and break what is open: from outside, the upstream has gone."""
        if self._thread and self._loop:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            assert not self.violations, self.violations

    async def _serve(self, ready: Future[None]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(
                self._connection, "127.0.0.1", self.port, ssl=self._context, backlog=512
            )
        except OSError as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._stopping.wait()
        # asyncio drops a connection, and does not close it, that it has accepted and not begun when the server closes.
        for listening in server.sockets:
            self._loop.remove_reader(listening)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        server.close()  # the connections end as asyncio.run cancels their tasks

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                request = await self._read(reader)
                if request is None or not await self._reply(request, writer):
                    break
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the client has gone, which is its right
        except asyncio.CancelledError:
            writer.transport.abort()  # stopped
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            self.violations.append("headers beyond 64 KiB")
            return None
        try:
            method, target, headers = wire.parse_head(head)
        except ValueError as error:
            self.violations.append(str(error))
            return None
        parts = urlsplit(target)
        request = Request(method, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers)
        self.requests.append(request)
        return request

    async def _reply(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Send the answer; whether the connection may be used again."""
        answer = self._usual(request)
        for script in self._scripts:
            if script.part in request.path and script.method in ("", request.method):
                fault = script.faults.pop(0) if script.faults else script.then
                answer = fault(request, answer) if fault else answer
                break
        return await Sender(request, answer, writer, self.sent).send()

    def _usual(self, request: Request) -> Answer:
        """What a good registry answers."""
        if request.method not in {"GET", "HEAD"}:
            return refuse(405)(request, Answer())
        if request.path in {"/v2/", "/v2"}:
            return Answer(200, b"{}", {"Content-Type": "application/json"}, ranged=False)
        if request.path in self._answers:
            return self._answers[request.path]
        if found := re.fullmatch(r"/v2/(.+)/tags/list", request.path):
            return self._tag_list(found[1], request)
        if (found := re.fullmatch(r"/v2/(.+)/referrers/(.+)", request.path)) and found[1] in self._tags:
            return _referrers(self._referrers.get(f"{found[1]} {found[2]}", []), request)
        code = "MANIFEST_UNKNOWN" if "/manifests/" in request.path else "BLOB_UNKNOWN"
        body = json.dumps({"errors": [{"code": code, "message": "not here"}]}).encode()
        return Answer(404, body, {"Content-Type": "application/json"}, ranged=False)

    def _tag_list(self, repository: str, request: Request) -> Answer:
        if repository not in self._tags:
            return refuse(404, "no such repository")(request, Answer())
        last, size = request.query.get("last", ""), request.query.get("n")
        rest = sorted(tag for tag in self._tags[repository] if tag > last)
        page = rest if size is None else rest[: int(size)]
        headers = {"Content-Type": "application/json"}
        if page and len(page) < len(rest):
            headers["Link"] = f'</v2/{repository}/tags/list?n={size}&last={page[-1]}>; rel="next"'
        return Answer(200, json.dumps({"name": repository, "tags": page}).encode(), headers, ranged=False)

    def _note_subject(self, repository: str, body: bytes, media_type: str, digest: str) -> None:
        try:
            document = json.loads(body)
            subject = document["subject"]["digest"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        kind = document.get("artifactType") or document.get("config", {}).get("mediaType", "")
        entry = {"mediaType": media_type, "digest": digest, "size": len(body), "artifactType": kind}
        known = self._referrers.setdefault(f"{repository} {subject}", [])
        if entry not in known:
            known.append(entry)


def _referrers(entries: Iterable[dict[str, Any]], request: Request) -> Answer:
    wanted = request.query.get("artifactType")
    headers = {"Content-Type": OCI_INDEX}
    if wanted:
        headers["OCI-Filters-Applied"] = "artifactType"
    chosen = [entry for entry in entries if wanted in (None, entry["artifactType"])]
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": chosen}
    return Answer(200, json.dumps(body).encode(), headers, ranged=False)
