"""What is pure: names, digests, ranges, manifests, routes, challenges."""
