"""``python -m tramontane``: Python looks for this file at the root of the package."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
