"""Millpond's server with the smallest app there is: what HTTP and the zero-copy send cost without routing or cache.

python -m tests.bench.alone FILE PORT
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from proxy.server import Listener, Server
from proxy.server.asgi import Receive, Send


async def serve(path: str, port: int) -> None:
    with open(path, "rb") as file:  # noqa: ASYNC230, PTH123 - before anything is served
        size = os.fstat(file.fileno()).st_size

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            headers = [(b"content-length", b"%d" % size), (b"content-type", b"application/octet-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 0, "count": size})

        server = Server(app, Listener("127.0.0.1", port))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        await server.serve()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
