"""The wire: the only place that knows the HTTP client. One request in, one reply out, every exception translated."""

from proxy.upstream.transport.reply import Reply
from proxy.upstream.transport.route import CHUNK_SIZE, CONNECTIONS_PER_HOST
from proxy.upstream.transport.translation import ConnectionFailed
from proxy.upstream.transport.transport import Fields, Transport

__all__ = ["CHUNK_SIZE", "CONNECTIONS_PER_HOST", "ConnectionFailed", "Fields", "Reply", "Transport"]
