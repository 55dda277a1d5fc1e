"""The harness: real programs, upstreams that a test controls, and the Millpond program itself."""
