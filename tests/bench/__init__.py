"""Millpond beside its peers, on one machine, in one run: `python -m tests.bench --help`.

peers.py        who is compared: each a server on loopback
stage.py        what they play on: an upstream, images, directories; Millpond itself
client.py       connections that discard in the kernel
load.py         many of them at once: throughput, downloads, requests a second
nodes.py        nodes that pull an image as containerd does
measure.py      one number with its CPU time and memory
cases/          what is measured; a new case is a function in `CASES`
report.py       medians and ratios, as a table and as JSON
bars.py         what Millpond promises, and whether this run shows it
plots.py        the pictures in the README
"""
