"""A list of names and values, one a line. (stdlib only)"""

from __future__ import annotations

from typing import Any


def print_rows(rows: dict[str, Any]) -> None:
    """Print a name and its value on each line, the values in one column."""
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
