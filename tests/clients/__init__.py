"""Real clients pull through Millpond; what they end up with is compared with the source, digest by digest."""
