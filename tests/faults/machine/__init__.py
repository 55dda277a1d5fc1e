"""A machine that does to the running program whatever can happen to it, in any order, and looks after each step."""
