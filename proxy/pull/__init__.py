"""The story of a pull. No I/O of its own: sources bring bytes, the cache keeps them, flights join the two."""
