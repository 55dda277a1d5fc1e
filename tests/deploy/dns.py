"""A name server that knows what it is told, as a cluster's knows its pods."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Final, Self

_A: Final = 1
_TTL: Final = 1  # seconds, so that a changed address is soon asked for
_NO_SUCH_NAME: Final = 3


class NameServer:
    """Answers A questions on a UDP port of 127.0.0.1 while its context lasts. `addresses` may change meanwhile."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))  # nothing is the sign to end
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        """RFC 1035, section 4: the header, the question again, and the address, if there is one."""
        labels, at = [], 12
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode())
            at += 1 + length
        (kind,) = struct.unpack_from("!H", question, at + 1)
        asked = question[12 : at + 5]
        address = self.addresses.get(".".join(labels).lower())
        found = kind == _A and address is not None
        flags = 0x8180 | (0 if address is not None else _NO_SUCH_NAME)  # an answer, recursive
        header = question[:2] + struct.pack("!HHHHH", flags, 1, int(found), 0, 0)
        if not found or address is None:
            return header + asked
        # 0xC00C: the name is the question's.
        return header + asked + struct.pack("!HHHIH", 0xC00C, _A, 1, _TTL, 4) + socket.inet_aton(address)
