"""Millpond beside its peers, on one machine, in one run: `python -m tests.bench --help`.

peers.py    who is compared: each a server on loopback with the same blob
load.py     the clients, which cost next to nothing
cases.py    what is measured; a new case is a function in `CASES`
report.py   medians and ratios, as a table and as JSON
"""
