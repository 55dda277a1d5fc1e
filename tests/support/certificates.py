"""A private certificate authority, as a company has one in front of its own registry."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain and its key, as PEM files."""

    chain_file: Path
    key_file: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain_file, self.key_file)
        return context


class Authority:
    """Signs certificates that nobody trusts who does not know `ca_file`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._ca = trustme.CA()
        self._issued = 0
        self.ca_file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, *names: str) -> Certificate:
        """A certificate for these host names and addresses; without any, for this machine's loopback."""
        self._issued += 1
        made = self._ca.issue_cert(*(names or ("localhost", "127.0.0.1")))
        certificate = Certificate(
            self._directory / f"server-{self._issued}.pem", self._directory / f"server-{self._issued}.key"
        )
        for number, part in enumerate(made.cert_chain_pems):
            part.write_to_path(str(certificate.chain_file), append=number > 0)
        made.private_key_pem.write_to_path(str(certificate.key_file))
        return certificate

    def client_context(self) -> ssl.SSLContext:
        """What a client uses that trusts this authority and no other."""
        return ssl.create_default_context(cafile=str(self.ca_file))
