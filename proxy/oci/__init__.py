"""Ground floor: what the OCI specifications say, as values and pure functions. Standard library only, no I/O."""
