"""Numbers that options take, within bounds, for argparse. (stdlib only)"""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(*, least: int, most: int) -> Callable[[str], int]:
    """The type of an option whose value is a whole number, both bounds included."""

    def parse(text: str) -> int:
        try:
            if least <= (found := int(text)) <= most:
                return found
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from {least} to {most}")

    return parse


def seconds(*, most: int) -> Callable[[str], float]:
    """The type of an option whose value is a time from 0, in seconds."""

    def parse(text: str) -> float:
        try:
            if 0 <= (found := float(text)) <= most:  # false of NaN
                return found
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text}: expected seconds from 0 to {most}")

    return parse
