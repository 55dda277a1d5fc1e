"""The local disk: the only code that opens cache files."""
