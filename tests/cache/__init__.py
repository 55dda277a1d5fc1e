"""The disk cache by itself, on a real directory."""
