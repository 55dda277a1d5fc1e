"""What clients get from `millpond mirror-config`, and what they had before."""
