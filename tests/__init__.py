"""Millpond seen from outside: real registries, real clients, and upstreams that misbehave on purpose."""
