"""The registry port: an ASGI application that turns requests into pulls, and pulls into responses."""
