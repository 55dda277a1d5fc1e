"""A token server of the distribution specification: TLS, signed tokens, credentials for what is private."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.certificates import Authority, Certificate

ISSUER: Final = "token server of the tests"
SERVICE: Final = "registry of the tests"
_CLOCK_SKEW: Final = 30  # seconds that a token is valid before now
_P256_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request as it arrived. `user` is None when no credentials came with it."""

    scopes: tuple[str, ...]
    service: str | None
    user: str | None
    status: int


@dataclass
class TokenServer:
    """Grants pulls to everybody, and pulls below `private_prefix` to `users` (name to password) only.

    `expires_in` is what tokens say, in seconds, None to leave it out; `status` makes it fail. Both may be changed
    at any time.
    """

    authority: Authority
    users: Mapping[str, str] = field(default_factory=dict)
    private_prefix: str = "private/"
    expires_in: int | None = 300
    status: int = 200
    requests: list[TokenRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._signing = _Signer(self.authority.issue("token-signing.test"))
        certificate = self.authority.issue()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.context = certificate.server_context()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The realm."""
        return f"https://127.0.0.1:{self._server.server_address[1]}/token"

    @property
    def root_bundle(self) -> Path:
        """What the registry checks signatures against."""
        return self.authority.ca_file

    def start(self) -> TokenServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def mint(self, access: Iterable[tuple[str, tuple[str, ...]]]) -> str:
        """A token for (repository, actions) pairs, without asking for credentials: what the harness pushes with."""
        now = int(time.time())
        return self._signing.sign(
            {
                "iss": ISSUER,
                "aud": SERVICE,
                "sub": "",
                "jti": uuid.uuid4().hex,
                "iat": now,
                "nbf": now - _CLOCK_SKEW,
                "exp": now + (self.expires_in or 60),
                "access": [{"type": "repository", "name": name, "actions": list(acts)} for name, acts in access],
            }
        )

    def answer(self, query: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        """(status, JSON body) for one request; it is recorded."""
        asked = parse_qs(query)
        scopes = tuple(asked.get("scope", []))
        user, known = self._check(authorization)
        status = self.status if known else 401
        self.requests.append(TokenRequest(scopes, next(iter(asked.get("service", [])), None), user, status))
        if status != 200:
            return status, {"details": "refused by the token server of the tests"}
        granted = [
            (name, ("pull",))
            for kind, _, rest in (scope.partition(":") for scope in scopes)
            for name, _, actions in [rest.rpartition(":")]
            if kind == "repository" and "pull" in actions.split(",")
            if user is not None or not name.startswith(self.private_prefix)
        ]
        body: dict[str, Any] = {"token": self.mint(granted)}
        if self.expires_in is not None:
            body["expires_in"] = self.expires_in
        return 200, body

    def _check(self, authorization: str | None) -> tuple[str | None, bool]:
        """(user, whether the credentials are right); nobody is right too."""
        if authorization is None:
            return None, True
        scheme, _, encoded = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None, False
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user, self.users.get(user) == password


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake belongs to the connection's own thread: one silent client must not hold up the others.
        request.settimeout(10)
        try:
            with self.context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except OSError:
            return  # the client does not trust this certificate, or has gone


class _Handler(BaseHTTPRequestHandler):
    owner: TokenServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        status, document = self.owner.answer(urlsplit(self.path).query, self.headers.get("Authorization"))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


class _Signer:
    """JSON web tokens, ES256, with the certificate chain in the header as distribution wants it."""

    def __init__(self, certificate: Certificate) -> None:
        key = serialization.load_pem_private_key(certificate.key_file.read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        self._key = key
        chain = x509.load_pem_x509_certificates(certificate.chain_file.read_bytes())
        self._chain = [base64.b64encode(link.public_bytes(serialization.Encoding.DER)).decode() for link in chain]

    def sign(self, claims: dict[str, Any]) -> str:
        header = {"typ": "JWT", "alg": "ES256", "x5c": self._chain}
        signed = f"{_encode(json.dumps(header).encode())}.{_encode(json.dumps(claims).encode())}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(_P256_BYTES, 'big') + s.to_bytes(_P256_BYTES, 'big'))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
