"""Everything that parses what a stranger sends, fed with what no one should send.

`targets` has the parsers and what must hold of each; `test_targets` drives them by hypothesis, `python -m tests.fuzz
TARGET` by atheris for as long as is wanted; `test_wire` sends bytes to the running program.
"""
