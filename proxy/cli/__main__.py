"""`python -m proxy.cli` is `millpond`."""

from proxy.cli import main

if __name__ == "__main__":
    main(prog_name="millpond")
