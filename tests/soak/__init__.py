"""A long run under mixed load: does anything grow, stay behind, or go wrong that was not made to go wrong?

    python -m tests.soak --seconds 600

Clients pull, ask for ranges and leave; upstream and ECR fail in storms; a small budget evicts all the time; files are
damaged; the program is restarted and killed in the first third, and then lives on to the end.
"""
