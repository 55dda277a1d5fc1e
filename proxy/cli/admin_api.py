"""The admin API of a Millpond that runs, as its own command line asks it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from proxy.cache.admin_pass import read_pass
from proxy.oci.secret import Secret
from proxy.settings import Listen, Settings

# Several of the server's heartbeats (5 s each): a server that is silent for longer is not there any more.
READ_TIMEOUT: Final = 30.0
# An answer to one question; a status of ten thousand jobs has a few MiB.
MAX_ANSWER: Final = 64 * 1024 * 1024
MAX_LINE: Final = 1024 * 1024

_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  what a server listens on, and where it is then


class ApiError(Exception):
    """The question could not be asked, or was refused; the message says what to do."""


class Refused(ApiError):
    """The server answered, and says no."""


def admin_api(settings: Settings) -> AdminApi:
    """The API of the server that runs with these settings.

    Raises:
        ApiError: nobody can know where it is.
    """
    if not settings.admin.listen.port:
        raise ApiError("admin.listen has port 0, which is another one at each start; write a port")
    configured = settings.admin.token
    token = configured.get_secret_value() if configured else read_pass(settings.cache.directory)
    return AdminApi(settings.admin.listen, Secret(token) if token else None)


class AdminApi:
    """`listen` is admin.listen of the server's own configuration, `token` its admin.token or its pass."""

    def __init__(self, listen: Listen, token: Secret | None) -> None:
        self._listen = listen
        self._token = token
        self._url = f"http://{Listen(_ANYWHERE.get(listen.host, listen.host), listen.port)}"
        # Not through a proxy of the environment: it is on this machine, or as near as its operator made it.
        self._opener = build_opener(ProxyHandler({}))

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        asked = f"{path}?{urlencode(query)}" if query else path
        with self._open(Request(self._url + asked)) as response:  # noqa: S310  http by construction
            return self._object(self._bytes(response, MAX_ANSWER))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._open(self._posted(path, body)) as response:
            return self._object(self._bytes(response, MAX_ANSWER))

    def send(
        self, path: str, query: Mapping[str, str], content: Iterable[bytes], size: int, kind: str
    ) -> dict[str, Any]:
        """POST `size` bytes of `content`, of the media type `kind`."""
        request = self._changing(f"{path}?{urlencode(query)}", content, kind)
        request.add_header("Content-Length", str(size))
        with self._open(request) as response:
            return self._object(self._bytes(response, MAX_ANSWER))

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The name and data of each server-sent event. ApiError when the stream ends, which it never does by itself."""
        with self._open(Request(self._url + path)) as response:  # noqa: S310  http by construction
            name = "message"
            while line := self._bytes(response, MAX_LINE, line=True):
                field, _, value = line.partition(b":")
                if field == b"event":
                    name = value.strip().decode(errors="replace")
                elif field == b"data":
                    yield name, self._object(value)
        raise ApiError(f"{self._where} has ended; ask again when it runs")

    def stream(
        self, path: str, *, query: Mapping[str, Any] | None = None, body: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The lines of a stream up to its summary, which is the last one; by POST where there is a body.

        Raises:
            ApiError: also where it ends before its summary.
        """
        asked = f"{path}?{urlencode(query, doseq=True)}" if query else path
        request = Request(self._url + asked) if body is None else self._posted(path, body)  # noqa: S310
        with self._open(request) as response:
            while line := self._bytes(response, MAX_LINE, line=True):
                if not line.strip():
                    continue
                row = self._object(line)
                if "error" in row:
                    raise ApiError(str(row["error"]))
                yield row
                if "summary" in row:
                    return
        raise ApiError(f"{self._where} ended in the middle of its answer; look into its log, then ask again")

    @property
    def _where(self) -> str:
        return f"the Millpond at {self._listen}"

    def _posted(self, path: str, body: Mapping[str, Any]) -> Request:
        return self._changing(path, json.dumps(body).encode(), "application/json")

    def _changing(self, path: str, body: bytes | Iterable[bytes], kind: str) -> Request:
        return Request(self._url + path, body, {"Content-Type": kind})  # noqa: S310

    def _open(self, request: Request) -> HTTPResponse:
        if self._token is not None:
            request.add_unredirected_header("Authorization", f"Bearer {self._token.reveal()}")
        try:
            response: HTTPResponse = self._opener.open(request, timeout=READ_TIMEOUT)
        except HTTPError as error:
            with error:
                raise Refused(self._refusal(error.code, error.read(MAX_LINE))) from None
        except (URLError, OSError, HTTPException) as error:
            cause = getattr(error, "reason", None) or error
            if isinstance(cause, TimeoutError):
                raise ApiError(
                    f"{self._where} has not answered within {READ_TIMEOUT:.0f} s; ask again, and look into its log "
                    "for what it waits for"
                ) from None
            reason = getattr(cause, "strerror", None) or cause
            raise ApiError(
                f"no Millpond answers at {self._listen}, which is admin.listen ({reason}); start it with "
                "`millpond serve`, or name the configuration of the one that runs with --config"
            ) from None
        return response

    def _bytes(self, response: HTTPResponse, most: int, *, line: bool = False) -> bytes:
        try:
            found = response.readline(most + 1) if line else response.read(most + 1)
        except (OSError, HTTPException) as error:
            raise ApiError(f"{self._where} broke off ({type(error).__name__}); look into its log, ask again") from None
        if len(found) > most:
            raise ApiError(f"{self._where} answered more than {most} bytes at once; something else listens there")
        return found

    def _object(self, text: bytes) -> dict[str, Any]:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ApiError(f"what answers at {self._listen} is no Millpond of this version; check admin.listen")
        return document

    def _refusal(self, status: int, body: bytes) -> str:
        try:
            return str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return f"what answers at {self._listen} is no Millpond of this version (HTTP {status}); check admin.listen"
