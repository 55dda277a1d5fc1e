"""A Millpond with users: their files, what they send, and from which address."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import bcrypt

from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get

CHEAP: Final = 4  # bcrypt's lowest cost
TOKEN: Final = "token-of-a-node-0123456789"


def htpasswd(file: Path, users: Mapping[str, str], cost: int = CHEAP) -> str:
    """Write `users` with their passwords as the program of that name does; the file's path."""
    lines = []
    for name, password in users.items():
        hashed = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(cost)).decode()
        lines.append(f"{name}:{hashed.replace('$2b$', '$2y$')}")
    file.write_text("# users\n\n" + "\n".join(lines) + "\n")
    return str(file)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def ask_from(millpond: Millpond, source: str, path: str = "/v2/", *forwarded: str) -> Reply:
    """A request from another address of this machine (127.0.0.0/8), with these X-Forwarded-For lines."""
    connection = http.client.HTTPConnection("127.0.0.1", millpond.port, timeout=20, source_address=(source, 0))
    try:
        connection.putrequest("GET", path)
        for line in forwarded:
            connection.putheader("X-Forwarded-For", line)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, headers, len(body), "", body)
    finally:
        connection.close()


def message(reply: Reply) -> str:
    """The first message of an error in OCI's form."""
    text = reply.json()["errors"][0]["message"]
    assert isinstance(text, str)
    return text


def names(millpond: Millpond, path: str, key: str, **headers: str) -> tuple[list[str], list[str]]:
    """Every entry of a list, page after page, and the Link headers on the way."""
    found: list[str] = []
    links: list[str] = []
    while path:
        reply = get(f"{millpond.url}{path}", headers)
        assert reply.status == 200, reply.text
        document: dict[str, Any] = reply.json()
        found += document[key]
        link = reply.headers.get("link", "")
        links += [link] if link else []
        path = link.partition(">")[0].removeprefix("<")
    return found, links
