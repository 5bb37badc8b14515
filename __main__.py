"""``python -m tramontane``: the command where it is not on the PATH."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
