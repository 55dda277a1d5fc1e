"""The server on real sockets: what a client sees, byte by byte."""
