"""The distribution specification's own conformance suite against Millpond, and what of the specification it cannot ask.

`.ci/conformance` builds the suite; `python -m tests.conformance` prints its reports.
"""
