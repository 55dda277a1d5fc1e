"""The registry port as clients see it: names, refusals, headers."""
