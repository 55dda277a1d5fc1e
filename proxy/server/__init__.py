"""uvicorn made ours: zero-copy bodies, header and write deadlines, and a graceful drain."""

from proxy.server.listener import Limits, Listener, ListenError
from proxy.server.server import Server

__all__ = ["Limits", "ListenError", "Listener", "Server"]
